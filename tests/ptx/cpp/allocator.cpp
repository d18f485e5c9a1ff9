// Every piece of memory that torch takes on the CPU, known by address while it lives.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <map>
#include <mutex>

namespace {

struct Region {
  uint64_t begin, end;
};

std::mutex lock;
std::map<uint64_t, uint64_t> ends;  // by the first address

c10::Allocator* base;

void release(void* data) {
  {
    const std::lock_guard<std::mutex> guard(lock);
    ends.erase(reinterpret_cast<uint64_t>(data));
  }
  base->raw_deallocate(data);
}

class Watched final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    void* data = base->raw_allocate(size);
    if (data != nullptr) {
      const std::lock_guard<std::mutex> guard(lock);
      const uint64_t begin = reinterpret_cast<uint64_t>(data);
      ends[begin] = begin + size;
    }
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* target, const void* source, size_t size) const override {
    default_copy_data(target, source, size);
  }
};

}  // namespace

extern "C" {

// From now on; never undone, because what was allocated in between is released by it.
void ptx_watch() {
  if (base != nullptr) return;
  base = c10::GetCPUAllocator();
  c10::SetCPUAllocator(new Watched, 255);
}

int ptx_find_region(uint64_t address, Region* region) {
  const std::lock_guard<std::mutex> guard(lock);
  auto next = ends.upper_bound(address);
  if (next == ends.begin()) return 0;
  --next;
  if (address >= next->second) return 0;
  *region = {next->first, next->second};
  return 1;
}
}
