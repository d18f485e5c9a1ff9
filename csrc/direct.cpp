#include "direct.h"

#ifdef __ELF__
#include <dlfcn.h>
#endif

// Torch's, by the names that its libraries export. They are declared here because torch's headers of C++ do not go with
// the limited API of Python, and compile their own version's layout of a tensor into whoever includes them. One that
// this torch does not have is null.
#ifdef __ELF__
#define FUSED_SCHED_EXPORTED(name) __asm__(name) __attribute__((weak))
extern "C" {
// at::toDLPackNonOwning(const at::Tensor&, DLTensor*), which is behind view_tensor(); up to torch 2.14
void torch_view(const void* tensor, DLTensor* view)
    FUSED_SCHED_EXPORTED("_ZN2at17toDLPackNonOwningERKNS_6TensorEP8DLTensor");
// at::toDLPackNonOwning(const at::Tensor&, DLTensor*, bool read_only), the same where it is false; from torch 2.15 on
void torch_view_for(const void* tensor, DLTensor* view, bool read_only)
    FUSED_SCHED_EXPORTED("_ZN2at17toDLPackNonOwningERKNS_6TensorEP8DLTensorb");
// const at::Tensor& c10::TensorImpl::grad() const
const void* torch_grad(const void* impl) FUSED_SCHED_EXPORTED("_ZNK3c1010TensorImpl4gradEv");
// bool at::TensorBase::is_leaf() const
bool torch_is_leaf(const void* tensor) FUSED_SCHED_EXPORTED("_ZNK2at10TensorBase7is_leafEv");
// bool at::impl::torch_function_mode_enabled()
bool torch_has_function_mode() FUSED_SCHED_EXPORTED("_ZN2at4impl27torch_function_mode_enabledEv");
}
#endif

namespace fused_sched {
namespace {

Py_ssize_t tensor_offset = 0;        // in an object; 0: nothing is read directly
const void* no_gradient = nullptr;   // what an undefined at::Tensor refers to
PyObject* grad_attribute = nullptr;  // torch's own
// PyObject* THPVariable_Wrap(const at::TensorBase&), which gives the Python object of a tensor; null if it is not to be
// used. Nothing is linked with the library that has it: torch has loaded it.
PyObject* (*torch_wrap)(const void* tensor) = nullptr;
PyObject* grad_name = nullptr;

#ifdef __ELF__

bool has_functions() {
  return (torch_view != nullptr || torch_view_for != nullptr) && torch_grad != nullptr && torch_is_leaf != nullptr &&
         torch_has_function_mode != nullptr;
}

void call_view(const void* tensor, DLTensor* view) {
  if (torch_view_for != nullptr) {
    torch_view_for(tensor, view, false);
  } else {
    torch_view(tensor, view);
  }
}

// A tensor of torch's with 3 elements; null with a Python exception set.
PyObject* make_tensor(PyObject* torch) {
  PyObject* factory = PyObject_GetAttrString(torch, "empty");
  PyObject* dtype = PyObject_GetAttrString(torch, "float32");
  PyObject* positional = Py_BuildValue("(i)", 3);
  PyObject* named = dtype == nullptr ? nullptr : Py_BuildValue("{s:O,s:s}", "dtype", dtype, "device", "cpu");
  PyObject* made = nullptr;
  if (factory != nullptr && positional != nullptr && named != nullptr) made = PyObject_Call(factory, positional, named);
  Py_XDECREF(factory);
  Py_XDECREF(dtype);
  Py_XDECREF(positional);
  Py_XDECREF(named);
  return made;
}

// The address that a tensor tells; null with a Python exception set.
const void* address_of(PyObject* tensor) {
  PyObject* number = PyObject_GetAttrString(tensor, "_cdata");
  if (number == nullptr) return nullptr;
  const void* address = PyLong_AsVoidPtr(number);
  Py_DECREF(number);
  return address;
}

// Where an object has its tensor, 0 if that is not among its first words.
Py_ssize_t find_offset(PyObject* object, const void* address) {
  for (size_t offset = sizeof(PyObject); offset <= sizeof(PyObject) + sizeof(void*); offset += sizeof(void*)) {
    const auto* word = reinterpret_cast<const void* const*>(reinterpret_cast<const char*>(object) + offset);
    if (*word == address) return static_cast<Py_ssize_t>(offset);
  }
  return 0;
}

// Looks for torch_wrap, which has to give this object for this tensor.
void find_wrap(const void* tensor, PyObject* object) {
  void* library = dlopen("libtorch_python.so", RTLD_NOLOAD | RTLD_LAZY);
  if (library == nullptr) return;
  torch_wrap = reinterpret_cast<PyObject* (*)(const void*)>(dlsym(library, "_Z16THPVariable_WrapRKN2at10TensorBaseE"));
  PyObject* wrapped = torch_wrap == nullptr ? nullptr : torch_wrap(tensor);
  if (wrapped != object) torch_wrap = nullptr;
  Py_XDECREF(wrapped);
  PyErr_Clear();
}

// Whether all that is read directly of a tensor, and of one that is made its gradient, is what Python says.
bool try_out(PyObject* tensor, PyObject* gradient) {
  if (!is_plain_tensor(tensor) || !is_plain_tensor(gradient)) return false;
  const void* address = address_of(tensor);
  const void* gradients = address_of(gradient);
  DLTensor seen, expected;
  if (address == nullptr || gradients == nullptr || !view_tensor(tensor, &expected)) return false;
  const Py_ssize_t offset = find_offset(tensor, address);
  if (offset == 0 || find_offset(gradient, gradients) != offset) return false;
  const auto* handle = reinterpret_cast<const TensorHandle*>(reinterpret_cast<const char*>(tensor) + offset);
  const void* none = static_cast<const TensorHandle*>(torch_grad(address))->impl;
  if (PyObject_SetAttr(tensor, grad_name, gradient) != 0) return false;
  if (none == gradients || static_cast<const TensorHandle*>(torch_grad(address))->impl != gradients) return false;
  call_view(handle, &seen);
  if (data_pointer(seen) != data_pointer(expected) || !same_geometry(seen, expected)) return false;
  no_gradient = none;
  tensor_offset = offset;
  find_wrap(torch_grad(address), gradient);
  return true;
}

// Whether a class has nothing of a user's between it and the attribute.
bool is_untouched(PyTypeObject* type) {
  if (PyType_GetSlot(type, Py_tp_getattro) != reinterpret_cast<void*>(PyObject_GenericGetAttr)) return false;
  PyObject* found = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), grad_name);
  if (found == nullptr) PyErr_Clear();
  Py_XDECREF(found);  // the class keeps it
  return found == grad_attribute;
}

#endif

}  // namespace

#ifdef __ELF__

bool load_direct() {
  grad_name = PyUnicode_InternFromString("grad");
  PyObject* torch = PyImport_ImportModule("torch");
  if (grad_name == nullptr || torch == nullptr) return false;
  grad_attribute = PyObject_GetAttr(reinterpret_cast<PyObject*>(tensor_type), grad_name);  // kept
  if (has_functions() && grad_attribute != nullptr && Py_TYPE(grad_attribute) == &PyGetSetDescr_Type) {
    PyObject* tensor = make_tensor(torch);
    PyObject* gradient = tensor == nullptr ? nullptr : make_tensor(torch);
    if (gradient != nullptr) try_out(tensor, gradient);
    Py_XDECREF(tensor);
    Py_XDECREF(gradient);
  }
  PyErr_Clear();
  Py_DECREF(torch);
  return true;
}

bool reads_directly() {
  return tensor_offset != 0 && !torch_has_function_mode() && is_untouched(tensor_type) && is_untouched(parameter_type);
}

bool reads_directly(PyTypeObject* type) { return torch_wrap != nullptr && is_untouched(type); }

const TensorHandle& tensor_in(PyObject* object) {
  return *reinterpret_cast<const TensorHandle*>(reinterpret_cast<const char*>(object) + tensor_offset);
}

PyObject* gradient_object(PyObject* tensor) {
  const TensorHandle* gradient;
  const Gradient kind = gradient_of(tensor_in(tensor), &gradient);
  if (kind == Gradient::kAskPython) return nullptr;
  if (kind == Gradient::kNone) {
    Py_INCREF(Py_None);
    return Py_None;
  }
  PyObject* object = torch_wrap(gradient);
  if (object == nullptr) PyErr_Clear();
  return object;
}

Gradient gradient_of(const TensorHandle& tensor, const TensorHandle** gradient) {
  *gradient = static_cast<const TensorHandle*>(torch_grad(tensor.impl));
  if ((*gradient)->impl != no_gradient) return Gradient::kThere;
  return torch_is_leaf(&tensor) ? Gradient::kNone : Gradient::kAskPython;
}

bool view_directly(const TensorHandle& tensor, DLTensor* view) {
  try {
    call_view(&tensor, view);
  } catch (...) {  // as of a sparse tensor
    return false;
  }
  return true;
}

#else

bool load_direct() { return true; }
bool reads_directly() { return false; }
bool reads_directly(PyTypeObject*) { return false; }
PyObject* gradient_object(PyObject*) { return nullptr; }
const TensorHandle& tensor_in(PyObject* object) { return *reinterpret_cast<const TensorHandle*>(object); }
Gradient gradient_of(const TensorHandle&, const TensorHandle**) { return Gradient::kAskPython; }
bool view_directly(const TensorHandle&, DLTensor*) { return false; }

#endif

}  // namespace fused_sched
