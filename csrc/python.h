// The Python C API as this module uses it, and torch tensors seen through DLPack.
#pragma once

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000  // one build for Python 3.10 and later
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <ATen/dlpack.h>

namespace fused_sched {

// Fetches what the functions below need from torch. Returns false with a Python exception set.
bool load_torch();

// Of torch, for the functions below, which are called for every tensor of every step.
extern const DLPackExchangeAPI* exchange;
extern PyTypeObject* tensor_type;
extern PyTypeObject* parameter_type;

// Whether it is a tensor or a parameter of torch's own class, of which nothing is overridden.
inline bool is_plain_tensor(PyObject* object) {
  return Py_TYPE(object) == parameter_type || Py_TYPE(object) == tensor_type;
}

inline bool is_tensor(PyObject* object) {
  return is_plain_tensor(object) || PyObject_TypeCheck(object, tensor_type);
}

// Non-owning view, valid while the tensor is neither resized nor freed.
// Returns false with a Python exception set, as for sparse tensors; object must be a tensor.
inline bool view_tensor(PyObject* object, DLTensor* view) {
  return exchange->dltensor_from_py_object_no_sync(object, view) == 0;
}

inline void* data_pointer(const DLTensor& view) {
  return static_cast<char*>(view.data) + view.byte_offset;
}

inline int64_t element_count(const DLTensor& view) {
  int64_t count = 1;
  for (int i = 0; i < view.ndim; ++i) count *= view.shape[i];
  return count;
}

// Whether both describe the same elements at the same offsets.
inline bool same_geometry(const DLTensor& a, const DLTensor& b) {
  if (a.ndim != b.ndim) return false;
  bool same_strides = true;
  bool empty = false;
  for (int i = 0; i < a.ndim; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    same_strides &= a.shape[i] == 1 || a.strides[i] == b.strides[i];
    empty |= a.shape[i] == 0;
  }
  return same_strides || empty;
}

// A hash of dtype, shape and strides that is never 0.
inline int64_t layout_hash(const DLTensor& view) {
  uint64_t hash = view.dtype.code * 256u + view.dtype.bits;
  const auto mix = [&hash](int64_t x) {
    hash = (hash ^ static_cast<uint64_t>(x)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  };
  mix(view.ndim);
  for (int i = 0; i < view.ndim; ++i) {
    mix(view.shape[i]);
    if (view.shape[i] != 1) mix(view.strides[i]);
  }
  return hash == 0 ? 1 : static_cast<int64_t>(hash);
}

struct Argument {
  void* data = nullptr;
  int64_t count = 0;  // elements
};

// What a tensor argument has to be.
struct Expected {
  const char* name;
  DLDataTypeCode code;
  int bits;
  const char* dtype;
  int64_t width;    // size of the last of two dimensions; 0: one dimension or none
  int64_t minimum;  // elements
};

// Checks a tensor argument. Returns false with TypeError or ValueError set.
bool read_tensor(PyObject* object, const Expected& expected, Argument* argument);

// Checks an integer argument. Returns false with an exception set.
bool read_int(PyObject* object, const char* name, int64_t low, int64_t high, int64_t* value);

bool check_argument_count(const char* function, Py_ssize_t given, Py_ssize_t wanted);

// Functions of the module (METH_FASTCALL).
PyObject* scan(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* layout(PyObject* module, PyObject* tensor);
PyObject* reads_directly(PyObject* module, PyObject* unused);
PyObject* update(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* advance_schedule(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* check_program(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* outdated(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* rules(PyObject* module, PyObject* unused);
PyObject* capability(PyObject* module, PyObject* unused);

// Returns false with a Python exception set.
bool load_scan();

}  // namespace fused_sched
