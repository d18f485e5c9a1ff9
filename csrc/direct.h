// Tensors behind Python objects, read by torch's own functions but without a call of Python's: the same answers, of
// plain tensors, in a fraction of the time.
#pragma once

#include "python.h"

namespace fused_sched {

// An at::Tensor, as it lies in a Python object: one word, the address of what it refers to.
struct TensorHandle {
  const void* impl;
};

// Looks for torch's functions, and for where its objects have their tensors. Where anything is not as expected, nothing
// is read directly. Returns false with a Python exception set.
bool load_direct();

// Whether `grad` of a plain tensor is, at this moment, the attribute that torch made, and nothing comes in between.
bool reads_directly();

// Of a plain tensor's object.
const TensorHandle& tensor_in(PyObject* object);

// What its gradient is, null for none; nothing else is told of a tensor that torch would warn about.
enum class Gradient { kThere, kNone, kAskPython };
Gradient gradient_of(const TensorHandle& tensor, const TensorHandle** gradient);

// The same question of a class of somebody's, such as torch's DTensor, where reads_directly() holds.
bool reads_directly(PyTypeObject* type);

// What `grad` of a tensor of such a class is, a new reference; null, without an exception, where Python has to be asked.
PyObject* gradient_object(PyObject* tensor);

// As view_tensor(), but sets no exception.
bool view_directly(const TensorHandle& tensor, DLTensor* view);

}  // namespace fused_sched
