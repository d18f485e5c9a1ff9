#include "python.h"

namespace fused_sched {

const DLPackExchangeAPI* exchange = nullptr;
PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;

namespace {

constexpr uint32_t kDLPackMajor = 1;

PyObject* fetch(const char* module_name, const char* name) {
  PyObject* module = PyImport_ImportModule(module_name);
  if (module == nullptr) return nullptr;
  PyObject* found = PyObject_GetAttrString(module, name);
  Py_DECREF(module);
  return found;
}

}  // namespace

bool load_torch() {
  PyObject* type = fetch("torch", "Tensor");
  PyObject* parameter = fetch("torch.nn", "Parameter");
  if (type == nullptr || parameter == nullptr) return false;
  tensor_type = reinterpret_cast<PyTypeObject*>(type);  // kept for the life of the process
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter);
  PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  if (capsule == nullptr) return false;
  exchange = static_cast<const DLPackExchangeAPI*>(
      PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (exchange == nullptr) return false;
  const bool usable = exchange->header.version.major == kDLPackMajor &&
                      exchange->dltensor_from_py_object_no_sync != nullptr;
  if (!usable) {
    PyErr_Format(PyExc_ImportError,
                 "this torch exchanges tensors by DLPack %u, but fused_sched._C was built for "
                 "version %u: rebuild fused_sched against this torch",
                 exchange->header.version.major, kDLPackMajor);
  }
  return usable;
}

namespace {

bool is_contiguous(const DLTensor& view) {
  int64_t stride = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.strides[i] != stride) return false;
    stride *= view.shape[i];
  }
  return true;
}

// Returns false with ValueError set.
bool has_shape(const DLTensor& view, int64_t count, const Expected& expected) {
  const char* name = expected.name;
  if (count > 0 && !is_contiguous(view)) {
    PyErr_Format(PyExc_ValueError, "%s must be contiguous: pass %s.contiguous()", name, name);
    return false;
  }
  if (expected.width > 0 && view.ndim != 2) {
    PyErr_Format(PyExc_ValueError, "%s has %d dimension(s), but must have 2", name, view.ndim);
    return false;
  }
  if (expected.width > 0 && view.shape[1] != expected.width) {
    PyErr_Format(PyExc_ValueError, "%s has rows of %lld elements, but they must have %lld", name,
                 static_cast<long long>(view.shape[1]), static_cast<long long>(expected.width));
    return false;
  }
  if (count < expected.minimum) {
    PyErr_Format(PyExc_ValueError, "%s has %lld element(s), but at least %lld are needed", name,
                 static_cast<long long>(count), static_cast<long long>(expected.minimum));
    return false;
  }
  return true;
}

}  // namespace

bool read_tensor(PyObject* object, const Expected& expected, Argument* argument) {
  DLTensor view;
  const bool viewed = is_tensor(object) && view_tensor(object, &view);
  if (!viewed || view.dtype.code != expected.code || view.dtype.bits != expected.bits ||
      view.device.device_type != kDLCPU) {
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError, "%s=%R must be a tensor of dtype %s on the CPU", expected.name,
                 object, expected.dtype);
    return false;
  }
  argument->data = data_pointer(view);
  argument->count = element_count(view);
  if (argument->data == nullptr && argument->count > 0) {
    PyErr_Format(PyExc_TypeError, "%s=%R has no values: give a tensor with memory", expected.name,
                 object);
    return false;
  }
  return has_shape(view, argument->count, expected);
}

bool read_int(PyObject* object, const char* name, int64_t low, int64_t high, int64_t* value) {
  *value = PyLong_AsLongLong(object);
  if (*value == -1 && PyErr_Occurred() != nullptr) return false;
  if (*value >= low && *value <= high) return true;
  PyErr_Format(PyExc_ValueError, "%s=%lld must be between %lld and %lld", name,
               static_cast<long long>(*value), static_cast<long long>(low),
               static_cast<long long>(high));
  return false;
}

bool check_argument_count(const char* function, Py_ssize_t given, Py_ssize_t wanted) {
  if (given == wanted) return true;
  PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments, but %zd were given", function,
               wanted, given);
  return false;
}

}  // namespace fused_sched
