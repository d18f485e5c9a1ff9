// What a translated kernel sees of the machine: its thread, the state spaces, barriers.
//
// A faulty access is reported and not made: a load gives a pattern, a store does nothing.
#pragma once
#include <stdint.h>
#include <string.h>

struct Thread {
  uint32_t tid, ntid, ctaid, nctaid;
  unsigned char* shared;
  uint32_t shared_size;
  void* block;
  uint32_t local_used;
  alignas(16) unsigned char local[4096];
};

// The part of local memory that a function uses; addresses there are offsets.
struct Local {
  Thread& t;
  uint32_t before, at;
  Local(Thread& thread, uint32_t size)
      : t(thread), before(thread.local_used), at((thread.local_used + 15) / 16 * 16) {
    t.local_used = at + size;
  }
  ~Local() { t.local_used = before; }
};

enum Space { kGeneric, kGlobal, kConst, kShared, kLocal };
enum Access { kRead, kWrite, kRepeat };  // kRepeat: a write of what is there already

extern "C" {
void ptx_barrier(Thread& t, const char* where);
// What lane `source` of the warp offers at the same place; all lanes have to come there.
uint32_t ptx_shuffle(Thread& t, uint32_t offered, uint32_t source, const char* where);
void ptx_fault(Thread& t, const char* what, uint64_t address, uint32_t size, const char* where);
// Whether no live memory has all of these bytes.
int ptx_outside(uint64_t address, uint32_t size);
// Whether races are looked for, and the accesses to look at.
extern int ptx_racing;
void ptx_access(Thread& t, uint64_t address, uint32_t size, Access kind, const char* where);
void ptx_atomic(Thread& t, uint64_t address, uint32_t size, int acquire, int release, const char* where);
// Units in the last place that approximate instructions are wrong by, to see what depends on them.
extern int ptx_perturbation;
}

template <typename U, int N>
struct Words {
  U x[N];
};

// Shuffles as PTX has them: the lane that one takes from, and whether that is another's.
enum Shuffle { kUp, kDown, kButterfly, kIndex };
template <Shuffle kWay>
static inline uint32_t shuffle(Thread& t, uint32_t offered, uint32_t b, uint32_t c, bool* valid, const char* where) {
  const uint32_t lane = t.tid % 32, segment = c >> 8 & 31, last = (lane & segment) | (c & 31 & ~segment);
  uint32_t from = kWay == kUp ? lane - (b & 31) : kWay == kDown ? lane + (b & 31) : lane ^ (b & 31);
  if (kWay == kIndex) from = (lane & segment) | (b & 31 & ~segment);
  *valid = kWay == kUp ? static_cast<int32_t>(from) >= static_cast<int32_t>(last) : from <= last;
  return ptx_shuffle(t, offered, *valid ? from : lane, where);
}

static inline bool within(uint64_t address, uint32_t size, const unsigned char* base, uint32_t length) {
  const uint64_t from = reinterpret_cast<uint64_t>(base);
  return address >= from && address + size <= from + length;
}

// Where a thread's bytes are on the host; 0 after a fault.
template <Space kSpace>
static inline uint64_t locate(Thread& t, uint64_t address, uint32_t size, const char* where) {
  if (kSpace == kShared || kSpace == kLocal) {
    const uint64_t offset = static_cast<uint32_t>(address);
    const uint64_t end = kSpace == kShared ? t.shared_size
                         : t.local_used < sizeof t.local ? t.local_used : sizeof t.local;
    const char* what = kSpace == kShared ? "outside of shared memory" : "outside of local memory";
    if (offset % size != 0) return ptx_fault(t, "misaligned", offset, size, where), 0;
    if (offset + size > end) return ptx_fault(t, what, offset, size, where), 0;
    return reinterpret_cast<uint64_t>(kSpace == kShared ? t.shared : t.local) + offset;
  }
  if (address % size != 0) return ptx_fault(t, "misaligned", address, size, where), 0;
  if (kSpace == kGeneric && within(address, size, t.shared, t.shared_size)) return address;
  if (kSpace == kGeneric && within(address, size, t.local, sizeof t.local)) return address;
  if (address < 4096 || ptx_outside(address, size)) return ptx_fault(t, "out of bounds", address, size, where), 0;
  return address;
}

template <Space kSpace, typename U, int N>
static inline Words<U, N> load(Thread& t, uint64_t address, const char* where) {
  Words<U, N> words;
  const uint64_t place = locate<kSpace>(t, address, sizeof words, where);
  if (__builtin_expect(place == 0, 0)) {
    memset(&words, 0xCD, sizeof words);
    return words;
  }
  if (kSpace != kLocal && ptx_racing) ptx_access(t, place, sizeof words, kRead, where);
  // word by word, because that is what the hardware promises
  for (int i = 0; i < N; ++i) memcpy(&words.x[i], reinterpret_cast<const U*>(place) + i, sizeof(U));
  return words;
}

template <Space kSpace, typename U, int N>
static inline void store(Thread& t, uint64_t address, Words<U, N> words, const char* where) {
  const uint64_t place = locate<kSpace>(t, address, sizeof words, where);
  if (__builtin_expect(place == 0, 0)) return;
  if (kSpace != kLocal && ptx_racing) {
    const bool there = memcmp(reinterpret_cast<const void*>(place), &words, sizeof words) == 0;
    ptx_access(t, place, sizeof words, there ? kRepeat : kWrite, where);
  }
  for (int i = 0; i < N; ++i) memcpy(reinterpret_cast<U*>(place) + i, &words.x[i], sizeof(U));
}

// The host's address of an atomic operation; 0 after a fault.
template <Space kSpace, typename U>
static inline U* atomic(Thread& t, uint64_t address, int acquire, int release, const char* where) {
  const uint64_t place = locate<kSpace>(t, address, sizeof(U), where);
  if (place != 0 && ptx_racing) ptx_atomic(t, place, sizeof(U), acquire, release, where);
  return reinterpret_cast<U*>(place);
}
