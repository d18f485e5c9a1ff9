// AdamW launched the way NVIDIA Apex launches it: our own writing of the pattern, not Apex's code.
//
// The pattern: a launch holds the addresses of at most 36 tensors and at most 320 blocks in a struct that is
// passed by value; a block of 512 threads walks one chunk of 65,536 elements of one tensor, 4 elements a thread
// with a stride of 512 between them, loaded one by one. A list longer than that takes more launches. As in Apex's
// capturable form, lr and step are read from the device and every thread computes the bias corrections anew.
// Kinder than Apex: gradients are not written back, the double-precision pow is a float one, and the launches
// that check for overflow are left out.
//
// Compiled by nvcc for a GPU, or by g++ with -DON_HOST, where blocks and threads are loops: the same code, to try.

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef ON_HOST
#define __global__
#define __device__
struct Index { int x; };
static thread_local Index blockIdx, threadIdx;
#else
#include <cuda_runtime.h>
#endif

namespace {

constexpr int kTensors = 36, kBlocks = 320, kThreads = 512, kIlp = 4;
constexpr int64_t kChunk = 65536;

struct BFloat16 {
  uint16_t bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(BFloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
__device__ inline void narrow(float x, float* out) { *out = x; }
__device__ inline void narrow(float x, BFloat16* out) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  out->bits = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

struct Launch {
  void* addresses[4][kTensors];  // gradient, parameter, two states
  int64_t sizes[kTensors];
  uint8_t block_to_tensor[kBlocks];
  int block_to_chunk[kBlocks];
};

struct Hyper {
  const float* lr;
  const int* step;
  float beta1, beta2, eps, decay;
};

template <typename T>
__global__ void adam(Launch launch, Hyper hyper) {
  const int tensor = launch.block_to_tensor[blockIdx.x];
  const int64_t first = int64_t(launch.block_to_chunk[blockIdx.x]) * kChunk;
  int64_t n = launch.sizes[tensor] - first;
  if (n > kChunk) n = kChunk;
  const T* g = static_cast<const T*>(launch.addresses[0][tensor]) + first;
  T* p = static_cast<T*>(launch.addresses[1][tensor]) + first;
  float* m = static_cast<float*>(launch.addresses[2][tensor]) + first;
  float* v = static_cast<float*>(launch.addresses[3][tensor]) + first;
  const float correction1 = 1 - powf(hyper.beta1, float(*hyper.step));
  const float correction2 = 1 - powf(hyper.beta2, float(*hyper.step));
  const float lr = *hyper.lr;
  for (int64_t start = 0; start < n; start += kThreads * kIlp) {
    float rg[kIlp], rp[kIlp], rm[kIlp], rv[kIlp];
#pragma unroll
    for (int k = 0; k < kIlp; k++) {
      const int64_t i = start + threadIdx.x + k * kThreads;
      rg[k] = rp[k] = rm[k] = rv[k] = 0;
      if (i < n) {
        rg[k] = widen(g[i]);
        rp[k] = widen(p[i]);
        rm[k] = m[i];
        rv[k] = v[i];
      }
    }
#pragma unroll
    for (int k = 0; k < kIlp; k++) {
      rm[k] = hyper.beta1 * rm[k] + (1 - hyper.beta1) * rg[k];
      rv[k] = hyper.beta2 * rv[k] + (1 - hyper.beta2) * rg[k] * rg[k];
      const float update = (rm[k] / correction1) / (sqrtf(rv[k] / correction2) + hyper.eps) + hyper.decay * rp[k];
      rp[k] = rp[k] - lr * update;
    }
#pragma unroll
    for (int k = 0; k < kIlp; k++) {
      const int64_t i = start + threadIdx.x + k * kThreads;
      if (i < n) {
        narrow(rp[k], &p[i]);
        m[i] = rm[k];
        v[i] = rv[k];
      }
    }
  }
}

template <typename T>
void run(const Launch& launch, int blocks, const Hyper& hyper, void* stream) {
#ifdef ON_HOST
  (void)stream;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
    for (threadIdx.x = 0; threadIdx.x < kThreads; threadIdx.x++) adam<T>(launch, hyper);
#else
  adam<T><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(launch, hyper);
#endif
}

}  // namespace

// Update a list of tensors; returns the number of launches, or -1 with an error of the device.
// addresses: gradients, parameters, first states, second states, each n of them. dry: only count.
extern "C" int apex_like_adam(const int64_t* addresses, const int64_t* sizes, int n, int sixteen_bits,
                              const float* lr, const int* step, float beta1, float beta2, float eps, float decay,
                              void* stream, int dry) {
  static thread_local Launch launch;
  const Hyper hyper{lr, step, beta1, beta2, eps, decay};
  int launches = 0, tensors = 0, blocks = 0;
  auto flush = [&] {
    launches++;
    if (!dry) sixteen_bits ? run<BFloat16>(launch, blocks, hyper, stream) : run<float>(launch, blocks, hyper, stream);
    blocks = 0;
  };
  for (int t = 0; t < n; t++) {
    if (sizes[t] == 0) continue;
    const int chunks = int((sizes[t] + kChunk - 1) / kChunk);
    auto place = [&](int slot) {
      for (int a = 0; a < 4; a++) launch.addresses[a][slot] = reinterpret_cast<void*>(addresses[int64_t(a) * n + t]);
      launch.sizes[slot] = sizes[t];
    };
    place(tensors++);
    for (int c = 0; c < chunks; c++) {
      launch.block_to_tensor[blocks] = uint8_t(tensors - 1);
      launch.block_to_chunk[blocks++] = c;
      const bool last = c == chunks - 1;
      if (blocks == kBlocks || (tensors == kTensors && last)) {
        flush();
        tensors = 0;
        if (!last) place(tensors++);  // the rest of this tensor goes into the next launch
      }
    }
  }
  if (blocks > 0) flush();
#ifndef ON_HOST
  if (!dry && cudaPeekAtLastError() != cudaSuccess) return -1;
#endif
  return launches;
}
