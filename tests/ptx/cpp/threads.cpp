// Runs a kernel with a thread of the host for each of its threads, for the sanitizers.
#include <stdlib.h>

#include "report.h"

namespace {

struct Warp {
  pthread_barrier_t barrier;
  uint32_t offered[32];
};

struct Block {
  pthread_barrier_t barrier;
  std::vector<Warp> warps;
  unsigned char* memory;
};

struct Start {
  Thread t;
  const Launch* launch;
};

void* enter(void* given) {
  Start* s = static_cast<Start*>(given);
  s->launch->kernel(s->t, s->launch->parameters);
  return nullptr;
}

void run_blocks(const Launch& launch, int first, int count, const pthread_attr_t* attributes) {
  std::vector<Block> blocks(count);
  std::vector<Start> starts(count * launch.threads);
  std::vector<pthread_t> ids(starts.size());
  for (int b = 0; b < count; ++b) {
    pthread_barrier_init(&blocks[b].barrier, nullptr, launch.threads);
    blocks[b].warps.resize((launch.threads + 31) / 32);
    for (Warp& w : blocks[b].warps) pthread_barrier_init(&w.barrier, nullptr, 32);
    blocks[b].memory = static_cast<unsigned char*>(aligned_alloc(1024, (launch.shared + 2047) / 1024 * 1024));
    memset(blocks[b].memory, 0xCD, launch.shared);
  }
  for (size_t i = 0; i < starts.size(); ++i) {
    const uint32_t b = i % count;  // blocks in turn, so that they overlap
    Thread& t = starts[i].t;
    t.tid = i / count, t.ntid = launch.threads, t.ctaid = first + b, t.nctaid = launch.blocks;
    t.shared = blocks[b].memory, t.shared_size = launch.shared, t.block = &blocks[b], t.local_used = 0;
    starts[i].launch = &launch;
    if (pthread_create(&ids[i], attributes, enter, &starts[i]) != 0) {
      perror("pthread_create");
      abort();
    }
  }
  for (pthread_t id : ids) pthread_join(id, nullptr);
  for (Block& b : blocks) {
    pthread_barrier_destroy(&b.barrier);
    for (Warp& w : b.warps) pthread_barrier_destroy(&w.barrier);
    free(b.memory);
  }
}

}  // namespace

extern "C" {

void ptx_barrier(Thread& t, const char*) { pthread_barrier_wait(&static_cast<Block*>(t.block)->barrier); }
uint32_t ptx_shuffle(Thread& t, uint32_t offered, uint32_t source, const char*) {
  Warp& w = static_cast<Block*>(t.block)->warps[t.tid / 32];
  w.offered[t.tid % 32] = offered;
  pthread_barrier_wait(&w.barrier);
  const uint32_t taken = w.offered[source];
  pthread_barrier_wait(&w.barrier);
  return taken;
}
void ptx_access(Thread&, uint64_t, uint32_t, Access, const char*) {}
void ptx_atomic(Thread&, uint64_t, uint32_t, int, int, const char*) {}

int ptx_run(const Launch* launch) {
  begin_report(*launch);
  begin_bounds(launch->find);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 << 10);
  for (int first = 0; first < launch->blocks; first += launch->at_once) {
    const int left = launch->blocks - first;
    run_blocks(*launch, first, left < launch->at_once ? left : launch->at_once, &attributes);
  }
  pthread_attr_destroy(&attributes);
  return faults;
}
}
