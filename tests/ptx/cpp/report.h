// Faults of a launch, as text for Python; and the memory that a launch may use. For the runtimes.
#pragma once
#include <pthread.h>
#include <stdio.h>

#include <vector>

#include "thread.h"

typedef void (*Kernel)(Thread&, unsigned char**);
struct Region {
  uint64_t begin, end;
};
// Fills in the live memory that has an address; 0 if none has.
typedef int (*FindRegion)(uint64_t address, Region* region);

// As in runtime.py.
struct Launch {
  Kernel kernel;
  unsigned char** parameters;
  FindRegion find;  // null: bounds are somebody else's concern
  uint64_t seed;
  int32_t blocks, threads, shared, at_once, races;
  int32_t message_size;
  char* message;
};

extern "C" {
int ptx_racing = 0;
int ptx_perturbation = 0;
}

namespace {

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
constexpr int kTexts = 20;  // the first faults are told, the rest is counted
char* message;
int message_size, message_used, faults;

void begin_report(const Launch& launch) {
  message = launch.message, message_size = launch.message_size, message_used = faults = 0;
  message[0] = 0;
}

void report(const char* text) {
  pthread_mutex_lock(&lock);
  if (++faults <= kTexts && message_used < message_size) {
    message_used += snprintf(message + message_used, message_size - message_used, "%s\n", text);
  }
  pthread_mutex_unlock(&lock);
}

FindRegion find_region;
std::vector<Region> constants;     // of loaded modules
thread_local Region recent[8];     // of this launch
thread_local int recent_generation[8];
int generation;

void begin_bounds(FindRegion find) { find_region = find, ++generation; }

}  // namespace

extern "C" {

void ptx_add_constants(uint64_t begin, uint64_t size) { constants.push_back({begin, begin + size}); }

int ptx_outside(uint64_t address, uint32_t size) {
  if (find_region == nullptr) return 0;
  const int slot = (address >> 6) % 8;
  Region& r = recent[slot];
  if (recent_generation[slot] == generation && address >= r.begin && address + size <= r.end) return 0;
  Region found;
  if (find_region(address, &found) && address + size <= found.end) {
    r = found, recent_generation[slot] = generation;
    return 0;
  }
  for (const Region& c : constants) {
    if (address >= c.begin && address + size <= c.end) return 0;
  }
  return 1;
}

void ptx_fault(Thread& t, const char* what, uint64_t address, uint32_t size, const char* where) {
  char text[512];
  snprintf(text, sizeof text, "%s: %u bytes at 0x%llx, block %u thread %u, %s", what, size,
           static_cast<unsigned long long>(address), t.ctaid, t.tid, where);
  report(text);
}
}
