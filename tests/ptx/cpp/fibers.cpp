// Runs a kernel with all its threads as fibers of one thread of the host. A turn takes one block from a
// barrier to the next; blocks and threads have their turns in an order drawn from the seed.
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>

#include "report.h"

namespace {

constexpr size_t kStack = 256 << 10;

struct Fiber {
  Thread t;
  ucontext_t context;
  const char* where = nullptr;  // the barrier or shuffle it waits at
  bool done = false;
  bool shuffles = false;
  uint32_t offered = 0, source = 0, taken = 0;  // in a shuffle
};

struct Block {
  uint32_t index;
  unsigned char* memory;
  unsigned char* const* stacks;
  std::vector<Fiber> fibers;
};

ucontext_t scheduler;
const Launch* launch;
Fiber* running;

void enter() {
  Fiber* f = running;
  launch->kernel(f->t, launch->parameters);
  f->done = true;
  setcontext(&scheduler);
}

uint64_t draw(uint64_t* state) {
  *state += 0x9e3779b97f4a7c15ull;
  uint64_t z = *state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

std::vector<int> shuffled(int n, uint64_t* state) {
  std::vector<int> order(n);
  for (int i = 0; i < n; ++i) order[i] = i;
  for (int i = n; i-- > 1;) std::swap(order[i], order[draw(state) % (i + 1)]);
  return order;
}

}  // namespace

#include "races.h"

namespace {

void start(Block& block) {
  memset(block.memory, 0xCD, launch->shared);
  block.fibers = std::vector<Fiber>(launch->threads);
  for (int i = 0; i < launch->threads; ++i) {
    Fiber& f = block.fibers[i];
    f.t.tid = i, f.t.ntid = launch->threads;
    f.t.ctaid = block.index, f.t.nctaid = launch->blocks;
    f.t.shared = block.memory, f.t.shared_size = launch->shared;
    f.t.block = &block, f.t.local_used = 0;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = block.stacks[i];
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
}

// All threads have to wait at a barrier or have ended; those of one warp at the same place.
int check_turn(const Block& block) {
  char text[512];
  int done = 0;
  for (int i = 0; i < launch->threads; ++i) {
    const Fiber &f = block.fibers[i], &first = block.fibers[i / 32 * 32];
    done += f.done;
    if (f.where != first.where) {
      snprintf(text, sizeof text, "block %u: threads %d and %d of a warp part at a barrier: %s, %s", block.index, i,
               i / 32 * 32, f.where ? f.where : "ended", first.where ? first.where : "ended");
      report(text);
    }
  }
  if (done != 0 && done != launch->threads) {
    snprintf(text, sizeof text, "block %u: %d of %d threads ended while others wait at a barrier", block.index, done,
             launch->threads);
    report(text);
  }
  return done;
}

void resume(Fiber& f) {
  f.where = nullptr;
  f.shuffles = false;
  running = &f;
  swapcontext(&scheduler, &f.context);
}

// Lets a warp of which some thread waits at a shuffle exchange what it offers; false if it cannot.
bool exchange(Block& block, int first) {
  Fiber* lanes = &block.fibers[first];
  for (int i = 0; i < 32; ++i) {
    if (lanes[i].shuffles && lanes[i].where == lanes[0].where) continue;
    char text[512];
    snprintf(text, sizeof text, "block %u: threads %d and %d of a warp part at a shuffle: %s, %s", block.index, first,
             first + i, lanes[0].where ? lanes[0].where : "ended", lanes[i].where ? lanes[i].where : "ended");
    report(text);
    return false;
  }
  for (int i = 0; i < 32; ++i) lanes[i].taken = lanes[lanes[i].source].offered;
  return true;
}

bool shuffles(const Block& block, int first) {
  for (int i = first; i < first + 32 && i < launch->threads; ++i) {
    if (block.fibers[i].shuffles) return true;
  }
  return false;
}

// Runs a warp on from shuffle to shuffle, until its threads wait at a barrier or have ended.
void shuffle_on(Block& block, int first, uint64_t* seed) {
  while (shuffles(block, first)) {
    const bool whole = first + 32 <= launch->threads && exchange(block, first);
    for (int i : shuffled(32, seed)) {
      Fiber& f = block.fibers[first + i];
      if (f.shuffles && whole) resume(f);
      f.shuffles = f.shuffles && whole;  // after a fault, the others are left where they are
    }
  }
}

// Runs a block to its next barrier; returns whether it has ended.
bool take_turn(Block& block, uint64_t* seed) {
  for (int i : shuffled(launch->threads, seed)) {
    if (!block.fibers[i].done) resume(block.fibers[i]);
  }
  for (int first = 0; first < launch->threads; first += 32) shuffle_on(block, first, seed);
  if (ptx_racing) races::barrier(block.index);
  return check_turn(block) == launch->threads;
}

}  // namespace

extern "C" {

uint32_t ptx_shuffle(Thread&, uint32_t offered, uint32_t source, const char* where) {
  Fiber* f = running;
  f->offered = offered, f->source = source, f->taken = offered;
  f->shuffles = true;
  f->where = where;
  swapcontext(&f->context, &scheduler);
  return f->taken;
}

void ptx_barrier(Thread&, const char* where) {
  Fiber* f = running;
  f->where = where;
  swapcontext(&f->context, &scheduler);
}

int ptx_run(const Launch* given) {
  launch = given;
  ptx_racing = given->races;
  begin_report(*given);
  begin_bounds(given->find);
  if (ptx_racing) races::begin(given->blocks, given->threads);
  static std::vector<unsigned char*> stacks;
  const size_t needed = static_cast<size_t>(given->at_once) * given->threads;
  while (stacks.size() < needed) stacks.push_back(static_cast<unsigned char*>(malloc(kStack)));
  const size_t shared = (given->shared + 2047) / 1024 * 1024;
  uint64_t seed = given->seed;
  std::vector<int> todo = shuffled(given->blocks, &seed);
  std::vector<std::unique_ptr<Block>> live;
  for (int i = 0; i < std::min(given->at_once, given->blocks); ++i) {
    live.emplace_back(new Block);
    live.back()->memory = static_cast<unsigned char*>(aligned_alloc(1024, shared));
    live.back()->stacks = &stacks[static_cast<size_t>(i) * given->threads];
    live.back()->index = todo.back();
    todo.pop_back();
    start(*live.back());
  }
  while (!live.empty()) {
    const size_t which = draw(&seed) % live.size();
    Block& block = *live[which];
    if (!take_turn(block, &seed)) continue;
    if (todo.empty()) {
      free(block.memory);
      live.erase(live.begin() + which);
      continue;
    }
    block.index = todo.back();
    todo.pop_back();
    start(block);
  }
  if (ptx_racing) races::end();
  return faults;
}
}
