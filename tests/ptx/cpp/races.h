// An exact happens-before check for what these kernels synchronise by: barriers within a block, acquire and release
// of atomic operations between blocks. Included in fibers.cpp: threads have turns, so nothing is locked.
//
// Of two accesses, a comes before b if one thread makes both, or threads of one block with a barrier between, or if
// b's thread has acquired what a's thread released. Time in a block is its phase, the barriers passed; within a phase
// a thread's time is its tick, the releases it has made.
#include <map>
#include <unordered_map>

namespace races {

struct Event {
  uint32_t block, thread, phase, tick;
  const char* where;
};

// What is known of a block: all its events in phases below `phase`, and in that phase those of a thread below a tick.
struct Known {
  uint32_t phase = 0;
  std::map<uint32_t, uint32_t> ticks;
};
typedef std::unordered_map<uint32_t, Known> Knowledge;  // by block

// What happened to a byte. A plain write ends the list of what came before it: whoever is after the write is after that.
struct Cell {
  Event write;
  bool written = false;
  std::vector<Event> reads, atomics;
};
constexpr uint64_t kPage = 64;
struct Page {
  Cell cells[kPage];
};

struct Member {
  uint32_t tick = 0;
  Knowledge knows;  // acquired since the last barrier
};
struct Group {
  uint32_t phase = 0;
  std::vector<Member> members;
  Knowledge knows;  // acquired by any thread before the last barrier
};

std::vector<Group> groups;  // by block
std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
std::unordered_map<uint64_t, Knowledge> released;  // by address: what an acquire there learns

void begin(int blocks, int threads) {
  groups.assign(blocks, Group());
  for (Group& g : groups) g.members.resize(threads);
}

void end() {
  pages.clear();
  released.clear();
}

Cell& cell_of(uint64_t address) {
  std::unique_ptr<Page>& page = pages[address / kPage];
  if (!page) page.reset(new Page);
  return page->cells[address % kPage];
}

void learn(Knowledge& into, const Knowledge& from) {
  for (const auto& [block, theirs] : from) {
    Known& mine = into[block];
    if (theirs.phase > mine.phase) mine = Known{theirs.phase, {}};
    if (theirs.phase < mine.phase) continue;
    for (const auto& [thread, tick] : theirs.ticks) mine.ticks[thread] = std::max(mine.ticks[thread], tick);
  }
}

bool covers(const Knowledge& knows, const Event& a) {
  const auto found = knows.find(a.block);
  if (found == knows.end()) return false;
  const Known& k = found->second;
  if (a.phase != k.phase) return a.phase < k.phase;
  const auto tick = k.ticks.find(a.thread);
  return tick != k.ticks.end() && a.tick < tick->second;
}

bool before(const Event& a, const Thread& t) {
  const Group& g = groups[t.ctaid];
  if (a.block == t.ctaid && (a.thread == t.tid || a.phase < g.phase)) return true;
  return covers(g.knows, a) || covers(g.members[t.tid].knows, a);
}

void barrier(uint32_t block) {
  Group& g = groups[block];
  ++g.phase;
  for (Member& m : g.members) {
    if (m.knows.empty()) continue;
    learn(g.knows, m.knows);
    m.knows.clear();
  }
}

void tell(const char* what, const Event& a, const Thread& t, uint64_t address, const char* where) {
  char text[512];
  snprintf(text, sizeof text, "race: %s at 0x%llx: block %u thread %u, %s; then block %u thread %u, %s", what,
           static_cast<unsigned long long>(address), a.block, a.thread, a.where, t.ctaid, t.tid, where);
  report(text);
}

bool check(const char* what, const Event& a, const Thread& t, uint64_t address, const char* where) {
  if (before(a, t)) return true;
  tell(what, a, t, address, where);
  return false;
}

bool check(const char* what, const std::vector<Event>& events, const Thread& t, uint64_t address, const char* where) {
  for (const Event& a : events) {
    if (!check(what, a, t, address, where)) return false;
  }
  return true;
}

// Whether a write of what is there already is one that others make by the same instruction. That of a warp is one write
// of them all; in shared memory, compilers let the warps of a block write what all of them have computed.
bool same_write(const Event& a, const Thread& t, bool shared, const char* where) {
  if (a.block != t.ctaid || a.phase != groups[t.ctaid].phase || a.where != where) return false;
  return shared || a.thread / 32 == t.tid / 32;
}

void note(std::vector<Event>& events, const Event& now) {
  // a thread has one turn a phase, so what it did in this one comes last
  if (!events.empty()) {
    const Event& last = events.back();
    if (last.block == now.block && last.thread == now.thread && last.phase == now.phase) events.pop_back();
  }
  events.push_back(now);
}

// Shared memory of one block after another lies at the same address.
uint64_t unique_address(const Thread& t, uint64_t address) {
  if (!within(address, 1, t.shared, t.shared_size)) return address;
  return address - reinterpret_cast<uint64_t>(t.shared) + (static_cast<uint64_t>(t.ctaid) << 32) + (1ull << 63);
}

}  // namespace races

extern "C" {

void ptx_access(Thread& t, uint64_t address, uint32_t size, Access kind, const char* where) {
  using namespace races;
  if (within(address, 1, t.local, sizeof t.local)) return;
  const Group& g = groups[t.ctaid];
  const Event now = {t.ctaid, t.tid, g.phase, g.members[t.tid].tick, where};
  const uint64_t first = unique_address(t, address);
  const bool shared = first != address;
  bool fine = true;  // one text an access is enough
  for (uint64_t a = first; a < first + size; ++a) {
    Cell& c = cell_of(a);
    const bool repeated = kind == kRepeat && c.written && same_write(c.write, t, shared, where);
    if (fine && c.written && !repeated) fine = check(kind == kRead ? "read after write" : "write after write", c.write, t, a, where);
    if (fine) fine = check(kind == kRead ? "read after atomic" : "write after atomic", c.atomics, t, a, where);
    if (kind == kRead) {
      note(c.reads, now);
      continue;
    }
    if (fine) fine = check("write after read", c.reads, t, a, where);
    c.reads.clear(), c.atomics.clear();
    c.write = now, c.written = true;
    released.erase(a);  // a plain write ends the sequence of a release
  }
}

void ptx_atomic(Thread& t, uint64_t address, uint32_t size, int acquire, int release, const char* where) {
  using namespace races;
  Group& g = groups[t.ctaid];
  Member& me = g.members[t.tid];
  const uint64_t first = unique_address(t, address);
  if (acquire) learn(me.knows, released[first]);
  const Event now = {t.ctaid, t.tid, g.phase, me.tick, where};
  bool fine = true;
  for (uint64_t a = first; a < first + size; ++a) {
    Cell& c = cell_of(a);
    if (fine && c.written) fine = check("atomic after write", c.write, t, a, where);
    if (fine) fine = check("atomic after read", c.reads, t, a, where);
    note(c.atomics, now);
  }
  if (!release) return;
  ++me.tick;
  Knowledge& sum = released[first];
  learn(sum, g.knows);
  learn(sum, me.knows);
  Knowledge own;
  own[t.ctaid] = Known{g.phase, {{t.tid, me.tick}}};
  learn(sum, own);
}
}
