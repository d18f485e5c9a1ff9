// Compares the parameter table with the tensors as they are now, and follows gradients that moved.
#include "cpu/kernels.h"
#include "direct.h"
#include "python.h"

namespace fused_sched {
namespace {

PyObject* grad_name = nullptr;
PyObject* is_neg_name = nullptr;
PyObject* local_name = nullptr;  // of a DTensor
PyObject* spec_name = nullptr;
PyObject* wait_name = nullptr;
PyObject* same_names[3] = {};  // of two specs whose parts have the same elements; as in memory/shards.py

enum Result : int { kUnchanged = 0, kMoved = 1, kRebuild = 2, kError = -1 };

constexpr int64_t kEmptyGradient = 1;  // stands for the gradient of a tensor without elements
constexpr int kStateCount = 3;

struct Table {
  const int64_t* ids;  // of the parameter object, and which list it is in
  const int64_t* layouts;
  const int64_t* needed;  // state tensors
  Record* records;
  int64_t count;
  DLDevice device;  // where all tensors have to be
  PyObject* held;   // list: gradients that must not be freed before the update
  PyObject* specs;  // list: how parameters and gradients are spread; null without DTensors
};

bool is_on(const DLTensor& view, const DLDevice& device) {
  return view.device.device_type == device.device_type && view.device.device_id == device.device_id;
}

bool has_dtype(const DLTensor& view, int dtype) {
  static constexpr struct {
    uint8_t code;
    uint8_t bits;
  } kTypes[] = {{kDLFloat, 32}, {kDLFloat, 64}, {kDLBfloat, 16}, {kDLFloat, 16}};
  if (dtype < 0 || dtype >= 4) return false;
  return view.dtype.code == kTypes[dtype].code && view.dtype.bits == kTypes[dtype].bits;
}

Result rebuild_instead_of_error() {
  PyErr_Clear();
  return kRebuild;
}

bool has_states(const Record& record, int64_t needed) {
  for (int i = 0; i < kStateCount; ++i) {
    if (i < needed && record.state[i] == 0) return false;
  }
  return true;
}

// Whether the values are the negatives of what is in memory, as those of z.conj().imag. DLPack does
// not tell. Such a view has stride 2, so only one of a single element has a parameter's layout.
bool may_be_negative_view(const Record& record) { return record.numel == 1; }

bool is_negative_view(const Record& record, PyObject* tensor) {
  if (!may_be_negative_view(record)) return false;
  PyObject* answer = PyObject_CallMethodObjArgs(tensor, is_neg_name, nullptr);
  const bool is_negative = answer == Py_True;
  Py_XDECREF(answer);
  PyErr_Clear();
  return is_negative;
}

Result follow(Record* record, int64_t grad) {
  if (record->grad == grad) return kUnchanged;
  record->grad = grad;
  return kMoved;
}

// Whether a gradient is what its record was made for.
bool suits(const DLTensor& grad, const DLTensor& param, const Record& record) {
  return is_on(grad, param.device) && has_dtype(grad, (record.kind >> 4) & 15) && same_geometry(param, grad);
}

Result follow_gradient(const DLTensor& param, const DLTensor& grad, int64_t needed, Record* record) {
  if (!suits(grad, param, *record)) return kRebuild;
  if (record->numel == 0) {
    // The addresses of empty tensors tell nothing: a new gradient may or may not have its states.
    if (record->grad != 0) return kUnchanged;
    record->grad = kEmptyGradient;
    return kRebuild;
  }
  if (data_pointer(grad) == nullptr) return kRebuild;  // a FakeTensor, or what else has no values
  if (!has_states(*record, needed)) return kRebuild;
  return follow(record, reinterpret_cast<int64_t>(data_pointer(grad)));
}

// Whether a parameter is where it was, as it was.
bool is_same(const Table& table, int64_t i, const DLTensor& param) {
  return is_on(param, table.device) && layout_hash(param) == table.layouts[i] &&
         reinterpret_cast<int64_t>(data_pointer(param)) == table.records[i].param;
}

// By torch itself where nothing of Python's would be asked.
bool view_quickly(PyObject* tensor, bool direct, DLTensor* view) {
  if (direct && is_plain_tensor(tensor) && view_directly(tensor_in(tensor), view)) return true;
  return view_tensor(tensor, view);
}

Result compare(const Table& table, int64_t i, PyObject* param, PyObject* grad, bool direct) {
  Record* record = &table.records[i];
  DLTensor view, grad_view;
  if (!view_quickly(param, direct, &view)) return rebuild_instead_of_error();
  if (!is_same(table, i, view)) return kRebuild;
  if (grad == Py_None) return follow(record, 0);
  if (!is_tensor(grad)) return kRebuild;
  if (!view_quickly(grad, direct, &grad_view)) return rebuild_instead_of_error();
  if (is_negative_view(*record, grad)) return kRebuild;
  return follow_gradient(view, grad_view, table.needed[i], record);
}

// As scan_parameter() of a plain parameter, without Python. False: that has to do it.
bool scan_directly(const Table& table, int64_t i, PyObject* param, Result* result) {
  Record* record = &table.records[i];
  const TensorHandle& tensor = tensor_in(param);
  const TensorHandle* grad;
  const Gradient kind = gradient_of(tensor, &grad);
  DLTensor view, grad_view;
  if (kind == Gradient::kAskPython || !view_directly(tensor, &view)) return false;
  if (!is_same(table, i, view)) {
    *result = kRebuild;
  } else if (kind == Gradient::kNone) {
    *result = follow(record, 0);
  } else {
    if (may_be_negative_view(*record) || !view_directly(*grad, &grad_view)) return false;
    *result = follow_gradient(view, grad_view, table.needed[i], record);
  }
  return true;
}

Result scan_parameter(const Table& table, int64_t i, PyObject* param) {
  const bool plain = is_plain_tensor(param);
  if (!plain && !is_tensor(param)) return kRebuild;
  // First, because a subclass may do anything when it is asked.
  PyObject* grad = PyObject_GetAttr(param, grad_name);
  if (grad == nullptr) return kError;
  Result result = compare(table, i, param, grad, false);
  // What a subclass answers may be a tensor that nobody else has.
  if (!plain && PyList_Append(table.held, grad) != 0) result = kError;
  Py_DECREF(grad);
  return result;
}

// An object of Python's, for as long as it is in use here.
class Held {
 public:
  explicit Held(PyObject* owned) : object_(owned) {}
  ~Held() { Py_XDECREF(object_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  PyObject* get() const { return object_; }
  bool missing() const { return object_ == nullptr; }

 private:
  PyObject* object_;
};

// Whether two specs agree in something that one or both may not have.
bool agree(PyObject* a, PyObject* b, PyObject* name) {
  const Held one(PyObject_GetAttr(a, name));
  if (one.missing()) PyErr_Clear();
  const Held other(PyObject_GetAttr(b, name));
  if (other.missing()) PyErr_Clear();
  if (one.missing() || other.missing()) return one.missing() && other.missing();
  const int equal = PyObject_RichCompareBool(one.get(), other.get(), Py_EQ);
  if (equal < 0) PyErr_Clear();
  return equal == 1;
}

// What may be read without Python's help; any of Python's code may change it.
struct Directness {
  bool plain;                     // of plain tensors
  PyTypeObject* type = nullptr;   // and of this class

  void look_again() {
    plain = reads_directly();
    type = nullptr;
  }

  bool has(PyTypeObject* other) {
    if (plain && other != type && reads_directly(other)) type = other;
    return plain && other == type;
  }
};

// Whether a gradient is spread as its parameter is; what was seen last is not compared again.
bool is_spread_alike(const Table& table, int64_t i, PyObject* spec, PyObject* grad, Directness* direct) {
  PyObject* grad_spec = PyObject_GetAttr(grad, spec_name);
  if (grad_spec == nullptr) return false;
  const bool known = grad_spec == spec || grad_spec == PyList_GetItem(table.specs, 2 * i + 1);
  if (!known) {
    direct->plain = false;  // until the caller looks again
    for (PyObject* name : same_names) {
      if (agree(spec, grad_spec, name)) continue;
      Py_DECREF(grad_spec);
      return false;
    }
    return PyList_SetItem(table.specs, 2 * i + 1, grad_spec) == 0;  // takes it
  }
  Py_DECREF(grad_spec);
  return true;
}

// The part of a gradient that is here; of one that is on its way, what arrives. Null with an exception set.
PyObject* part_of(PyObject* grad, Directness* direct) {
  PyObject* part = PyObject_GetAttr(grad, local_name);
  if (part == nullptr || is_plain_tensor(part)) return part;
  if (PyObject_HasAttr(reinterpret_cast<PyObject*>(Py_TYPE(part)), wait_name) == 0) return part;
  direct->plain = false;
  PyObject* arrived = PyObject_CallMethodObjArgs(part, wait_name, nullptr);
  Py_DECREF(part);
  return arrived;
}

// Of a DTensor; asks none of its operations.
Result scan_part(const Table& table, int64_t i, PyObject* param, Directness* direct) {
  PyObject* const noted = PyList_GetItem(table.specs, 2 * i);
  const Held spec(PyObject_GetAttr(param, spec_name));
  const Held part(PyObject_GetAttr(param, local_name));
  if (spec.missing() || part.missing()) return rebuild_instead_of_error();
  if (spec.get() != noted || !is_tensor(part.get())) return kRebuild;
  bool kept = direct->has(Py_TYPE(param));
  PyObject* found = kept ? gradient_object(param) : nullptr;
  if (found == nullptr) {
    kept = direct->plain = false;
    found = PyObject_GetAttr(param, grad_name);
  }
  const Held grad(found);
  if (grad.missing()) return kError;
  if (grad.get() == Py_None) return compare(table, i, part.get(), Py_None, direct->plain);
  if (!is_spread_alike(table, i, spec.get(), grad.get(), direct)) return rebuild_instead_of_error();
  const Held grad_part(part_of(grad.get(), direct));
  if (grad_part.missing()) return kError;
  kept = kept && direct->plain;  // by the parameter, as its gradient, and not by this alone
  const Result result = compare(table, i, part.get(), grad_part.get(), direct->plain);
  if (!kept && PyList_Append(table.held, grad_part.get()) != 0) return kError;
  return result;
}

// Lets the memory of parameters that come later be on its way.
void fetch_ahead(const Table& table, int64_t i, PyObject* params, Py_ssize_t k, Py_ssize_t n_params, bool direct) {
  constexpr Py_ssize_t kAhead = 6;
  if (!direct || k + 2 * kAhead >= n_params || i + 2 * kAhead >= table.count) return;
  __builtin_prefetch(PyList_GetItem(params, k + 2 * kAhead));
  PyObject* const next = PyList_GetItem(params, k + kAhead);
  if (reinterpret_cast<int64_t>(next) != table.ids[2 * (i + kAhead)]) return;  // perhaps no tensor
  const char* const impl = static_cast<const char*>(tensor_in(next).impl);
  __builtin_prefetch(impl);
  __builtin_prefetch(impl + 64);
  __builtin_prefetch(impl + 128);
}

Result scan_groups(const Table& table, PyObject* groups) {
  int64_t position = 0;
  bool moved = false;
  Directness direct{reads_directly()};
  const Py_ssize_t n_groups = PyList_Size(groups);
  for (Py_ssize_t g = 0; g < n_groups; ++g) {
    PyObject* params = PyList_GetItem(groups, g);
    if (!PyList_Check(params)) {
      PyErr_Format(PyExc_TypeError, "groups[%zd]=%R must be a list of parameters", g, params);
      return kError;
    }
    const Py_ssize_t n_params = PyList_Size(params);
    if (position + n_params > table.count) return kRebuild;
    for (Py_ssize_t k = 0; k < n_params; ++k, ++position) {
      PyObject* param = PyList_GetItem(params, k);
      if (param == nullptr) return kError;
      const int64_t* const id = table.ids + 2 * position;
      if (reinterpret_cast<int64_t>(param) != id[0] || id[1] != g) return kRebuild;
      if (table.layouts[position] == 0) continue;  // Python looks after this one
      fetch_ahead(table, position, params, k, n_params, direct.plain);
      Result result;
      const bool spread = table.specs != nullptr && PyList_GetItem(table.specs, 2 * position) != Py_None;
      if (spread) {
        Py_INCREF(param);
        result = scan_part(table, position, param, &direct);
        Py_DECREF(param);
        if (!direct.plain) direct.look_again();
      } else if (!direct.plain || !is_plain_tensor(param) || !scan_directly(table, position, param, &result)) {
        Py_INCREF(param);
        result = scan_parameter(table, position, param);
        Py_DECREF(param);
        direct.look_again();  // whatever ran meanwhile
      }
      if (result == kRebuild || result == kError) return result;
      moved |= result == kMoved;
    }
  }
  if (position != table.count) return kRebuild;
  return moved ? kMoved : kUnchanged;
}

}  // namespace

bool load_scan() {
  grad_name = PyUnicode_InternFromString("grad");
  is_neg_name = PyUnicode_InternFromString("is_neg");
  local_name = PyUnicode_InternFromString("_local_tensor");
  spec_name = PyUnicode_InternFromString("_spec");
  wait_name = PyUnicode_InternFromString("wait");
  static constexpr const char* kSame[] = {"placements", "shard_order", "mesh"};
  for (int i = 0; i < 3; ++i) {
    same_names[i] = PyUnicode_InternFromString(kSame[i]);
    if (same_names[i] == nullptr) return false;
  }
  return grad_name != nullptr && is_neg_name != nullptr && local_name != nullptr && spec_name != nullptr &&
         wait_name != nullptr;
}

// Argument 6 of scan(): two specs for each entry, or None. Returns false with TypeError set.
bool read_specs(PyObject* object, int64_t count, PyObject** specs) {
  *specs = object == Py_None ? nullptr : object;
  if (*specs == nullptr || (PyList_Check(object) && PyList_Size(object) == 2 * count)) return true;
  PyErr_Format(PyExc_TypeError, "specs=%R must be None or a list of two for each parameter", object);
  return false;
}

// Arguments 7 and 8 of scan(): a device as DLPack writes it; the CPU if there are none.
bool read_device(PyObject* const* args, Py_ssize_t n_args, DLDevice* device) {
  *device = {kDLCPU, 0};
  if (n_args == 7) return true;
  int64_t type, index;
  if (!check_argument_count("scan", n_args, 9) ||
      !read_int(args[7], "device_type", 1, INT32_MAX, &type) ||
      !read_int(args[8], "device_id", 0, INT32_MAX, &index)) {
    return false;
  }
  *device = {static_cast<DLDeviceType>(type), static_cast<int32_t>(index)};
  return true;
}

PyObject* scan(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Argument ids, layouts, records, needed;
  DLDevice device;
  if (!read_device(args, n_args, &device) ||
      !read_tensor(args[1], {"ids", kDLInt, 64, "int64", 2, 0}, &ids) ||
      !read_tensor(args[2], {"layouts", kDLInt, 64, "int64", 0, ids.count / 2}, &layouts) ||
      !read_tensor(args[3], {"records", kDLInt, 64, "int64", kRecordWidth, kRecordWidth * ids.count / 2}, &records) ||
      !read_tensor(args[4], {"needed", kDLInt, 64, "int64", 0, ids.count / 2}, &needed)) {
    return nullptr;
  }
  if (!PyList_Check(args[0])) {
    PyErr_Format(PyExc_TypeError, "groups=%R must be a list of lists of parameters", args[0]);
    return nullptr;
  }
  PyObject* held = args[5];
  if (!PyList_Check(held)) {
    PyErr_Format(PyExc_TypeError, "held=%R must be a list", held);
    return nullptr;
  }
  const Py_ssize_t n_held = PyList_Size(held);
  if (n_held > 0 && PyList_SetSlice(held, 0, n_held, nullptr) != 0) return nullptr;
  PyObject* specs;
  if (!read_specs(args[6], ids.count / 2, &specs)) return nullptr;
  const Table table{static_cast<const int64_t*>(ids.data),
                    static_cast<const int64_t*>(layouts.data),
                    static_cast<const int64_t*>(needed.data), static_cast<Record*>(records.data),
                    ids.count / 2, device, held, specs};
  const Result result = scan_groups(table, args[0]);
  return result == kError ? nullptr : PyLong_FromLong(result);
}

PyObject* layout(PyObject*, PyObject* tensor) {
  if (!is_tensor(tensor)) {
    PyErr_Format(PyExc_TypeError, "tensor=%R must be a torch.Tensor", tensor);
    return nullptr;
  }
  DLTensor view;
  if (!view_tensor(tensor, &view)) return nullptr;
  return PyLong_FromLongLong(layout_hash(view));
}

PyObject* reads_directly(PyObject*, PyObject*) { return PyBool_FromLong(reads_directly()); }

}  // namespace fused_sched
