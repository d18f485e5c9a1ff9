// The operators torch.ops.fused_sched.cuda_*: checks, current device and stream, launches.
//
// Built against torch's stable ABI, so one library serves torch 2.11 and later and every Python.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "launch.h"
#include "plan.h"

namespace fused_sched {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::runtime_error("fused_sched: " + message);
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report it again
  throw std::runtime_error(std::string("fused_sched: ") + what + ": " + cudaGetErrorString(error));
}

// Makes a device current for the CUDA runtime in this library.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "the current device cannot be read");
    changed_ = previous_ != device;
    if (changed_) check(cudaSetDevice(device), "the parameters' device cannot be used");
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

using CurrentStream = int32_t (*)(int32_t device, void** stream);

// torch's function for the current stream. It is looked up when needed and not linked: only a CUDA
// build of torch has it, and this library can be built and loaded beside any other.
CurrentStream find_current_stream() {
  void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* where = torch_cuda == nullptr ? RTLD_DEFAULT : torch_cuda;
  return reinterpret_cast<CurrentStream>(dlsym(where, "aoti_torch_get_current_cuda_stream"));
}

CurrentStream current_stream() {
  static const CurrentStream function = find_current_stream();
  require(function != nullptr, "this torch has no CUDA streams: install a CUDA build of torch");
  return function;
}

cudaStream_t stream_of(int device) {
  void* stream = nullptr;
  require(current_stream()(device, &stream) == 0, "torch did not tell its current stream");
  return static_cast<cudaStream_t>(stream);
}

void launch(const void* kernel, int64_t n_blocks, void** arguments, cudaStream_t stream) {
  check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(n_blocks)), dim3(kBlockThreads),
                         arguments, 0, stream),
        "a kernel was not launched");
}

template <typename... Rs>
const void* kernel_at(const Launch& l, List<Rs...>) {
  using Find = const void* (*)(int, bool, bool);
  static constexpr Find kFind[] = {find_kernel<Rs>...};
  return kFind[l.rule](find_kind(l.kind), l.extra != 0, has_around(l));
}

const void* kernel_of(const Launch& l) {
  require(l.rule >= 0 && l.rule < kRuleCount, "the plan has an unknown rule");
  require(average_type(l.kind) >= 0,
          "the plan has averages of another dtype than the parameters', or float32 beside 16 bits");
  require(l.kind == kNoKind || can_have_master(l.kind),
          "the plan has masters that do not go with the parameters: float32 beside 16 bits, or a remainder "
          "beside bfloat16");
  const void* kernel = kernel_at(l, common::Rules{});
  require(kernel != nullptr, "the plan has an unknown kind: use a supported combination of dtypes");
  return kernel;
}

const void* kernel_of(const NormLaunch& l) {
  const void* kernel = find_norm_kernel(static_cast<int>(l.dtype));
  require(kernel != nullptr, "the plan has an unknown dtype of gradients: use a supported one");
  return kernel;
}

template <typename Row>
struct Plan {
  static constexpr int64_t kWidth = sizeof(Row) / sizeof(int64_t);
  const Row* rows;
  int64_t count;
};

template <typename Row>
bool has_rows(const Tensor& plan) {
  return plan.is_cpu() && plan.scalar_type() == ScalarType::Long && plan.dim() == 2 &&
         plan.size(1) == Plan<Row>::kWidth && plan.is_contiguous();
}

template <typename Row>
Plan<Row> read_plan(const Tensor& plan) {
  require(has_rows<Row>(plan), "plan must be a contiguous int64 CPU tensor of shape (n, " +
                                   std::to_string(Plan<Row>::kWidth) + ")");
  return {static_cast<const Row*>(plan.const_data_ptr()), plan.size(0)};
}

const float* read_float(const std::optional<Tensor>& tensor, const Tensor& control,
                        const char* name) {
  if (!tensor.has_value()) return nullptr;
  require(tensor->scalar_type() == ScalarType::Float && tensor->numel() == 1 &&
              tensor->is_cuda() && tensor->get_device_index() == control.get_device_index(),
          std::string(name) + " must be one float32 on the device of the parameters");
  return static_cast<const float*>(tensor->const_data_ptr());
}

double* read_control(const Tensor& control) {
  require(control.is_cuda() && control.scalar_type() == ScalarType::Double &&
              control.is_contiguous() && control.numel() >= kGroupsOffset,
          "control must be a contiguous float64 CUDA tensor");
  return static_cast<double*>(control.mutable_data_ptr());
}

template <typename Row>
void run_plan(const Tensor& plan, const Tensor& control, const std::optional<Tensor>& grad_scale,
              const std::optional<Tensor>& found_inf) {
  const Plan<Row> launches = read_plan<Row>(plan);
  double* block = read_control(control);
  const float* scale = read_float(grad_scale, control, "grad_scale");
  const float* found = read_float(found_inf, control, "found_inf");
  const int device = control.get_device_index();
  const DeviceGuard guard(device);
  const cudaStream_t stream = stream_of(device);
  for (int64_t i = 0; i < launches.count; ++i) {
    auto argument = argument_of(launches.rows[i], block, scale, found);
    void* arguments[] = {&argument};
    launch(kernel_of(launches.rows[i]), launches.rows[i].n_blocks, arguments, stream);
  }
}

void cuda_measure(Tensor plan, Tensor control, std::optional<Tensor> grad_scale,
                  std::optional<Tensor> found_inf) {
  run_plan<NormLaunch>(plan, control, grad_scale, found_inf);
}

void cuda_update(Tensor plan, Tensor control, std::optional<Tensor> grad_scale,
                 std::optional<Tensor> found_inf) {
  run_plan<Launch>(plan, control, grad_scale, found_inf);
}

void cuda_advance(Tensor schedule, Tensor control) {
  double* block = read_control(control);
  require(schedule.is_cuda() && schedule.scalar_type() == ScalarType::Long &&
              schedule.numel() == sizeof(DeviceSchedule) / sizeof(int64_t) &&
              schedule.get_device_index() == control.get_device_index(),
          "schedule must be 9 int64 on the device of control");
  const DeviceSchedule* row = static_cast<const DeviceSchedule*>(schedule.const_data_ptr());
  const int device = control.get_device_index();
  const DeviceGuard guard(device);
  void* arguments[] = {&row, &block};
  launch(advance_kernel(), 1, arguments, stream_of(device));
}

void load_kernel(const void* kernel) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "the kernels cannot be loaded");
}

template <typename Row>
void load_kernels(const Plan<Row>& launches) {
  for (int64_t i = 0; i < launches.count; ++i) load_kernel(kernel_of(launches.rows[i]));
}

// Loads what a plan launches, which CUDA would otherwise do at the first launch. The plan is one of
// cuda_update or, as its width says, of cuda_measure.
void cuda_prepare(Tensor plan, int64_t device) {
  const DeviceGuard guard(static_cast<int>(device));
  if (has_rows<NormLaunch>(plan)) {
    load_kernels(read_plan<NormLaunch>(plan));
    return;
  }
  load_kernels(read_plan<Launch>(plan));
  load_kernel(advance_kernel());
}

// Throws if kernels cannot run on a device: no driver, one too old, or a GPU nothing was built for.
void cuda_check(int64_t device) {
  current_stream();
  const DeviceGuard guard(static_cast<int>(device));
  load_kernel(advance_kernel());
}

}  // namespace
}  // namespace fused_sched

STABLE_TORCH_LIBRARY_FRAGMENT(fused_sched, m) {
  m.def(
      "cuda_update(Tensor plan, Tensor(a!) control, Tensor? grad_scale, Tensor? found_inf) -> ()");
  m.def(
      "cuda_measure(Tensor plan, Tensor(a!) control, Tensor? grad_scale, Tensor? found_inf) -> ()");
  m.def("cuda_advance(Tensor schedule, Tensor(a!) control) -> ()");
  m.def("cuda_prepare(Tensor plan, int device) -> ()");
  m.def("cuda_check(int device) -> ()");
}

// For any device: the plan is on the CPU, and the functions themselves refuse what is not for them.
STABLE_TORCH_LIBRARY_IMPL(fused_sched, CompositeExplicitAutograd, m) {
  m.impl("cuda_update", TORCH_BOX(&fused_sched::cuda_update));
  m.impl("cuda_measure", TORCH_BOX(&fused_sched::cuda_measure));
  m.impl("cuda_advance", TORCH_BOX(&fused_sched::cuda_advance));
  m.impl("cuda_prepare", TORCH_BOX(&fused_sched::cuda_prepare));
  m.impl("cuda_check", TORCH_BOX(&fused_sched::cuda_check));
}
