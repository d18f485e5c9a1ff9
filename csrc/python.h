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

bool is_tensor(PyObject* object);

// Whether it is a tensor or a parameter of torch's own class, of which nothing is overridden.
bool is_plain_tensor(PyObject* object);

// Non-owning view, valid while the tensor is neither resized nor freed.
// Returns false with a Python exception set, as for sparse tensors; object must be a tensor.
bool view_tensor(PyObject* object, DLTensor* view);

inline void* data_pointer(const DLTensor& view) {
  return static_cast<char*>(view.data) + view.byte_offset;
}

int64_t element_count(const DLTensor& view);

// Whether both describe the same elements at the same offsets.
bool same_geometry(const DLTensor& a, const DLTensor& b);

// A hash of dtype, shape and strides that is never 0.
int64_t layout_hash(const DLTensor& view);

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
PyObject* update(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* advance_schedule(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* check_program(PyObject* module, PyObject* const* args, Py_ssize_t n_args);
PyObject* rules(PyObject* module, PyObject* unused);
PyObject* capability(PyObject* module, PyObject* unused);

// Returns false with a Python exception set.
bool load_scan();

}  // namespace fused_sched
