// Looks whether what a program was built on is what it was; see fused_sched/facts.py.
#include "python.h"

namespace fused_sched {
namespace {

// As in fused_sched/facts.py: a way to ask, and two bits.
enum How : int64_t { kAttribute, kEntry, kNoEntry, kAnswer, kEqual };
constexpr int64_t kOwnerWeakly = 8;
constexpr int64_t kValueWeakly = 16;
constexpr int kFactWidth = 4;  // how, owner, key, value

// Results, as of Python's own comparisons.
constexpr int kError = -1;
constexpr int kChanged = 0;
constexpr int kHolds = 1;

// A reference of its own; null where a Python exception is set.
struct Owned {
  PyObject* object;
  explicit Owned(PyObject* made) : object(made) {}
  Owned(const Owned&) = delete;
  ~Owned() { Py_XDECREF(object); }
};

// A new reference: to what a weak one refers to, None where that is gone.
PyObject* held(PyObject* object, bool weakly) {
  if (weakly) return PyObject_CallNoArgs(object);
  Py_INCREF(object);
  return object;
}

PyObject* ask(int64_t way, PyObject* owner, PyObject* key) {
  if (way == kAttribute) return PyObject_GetAttr(owner, key);
  if (way == kEntry) return PyObject_GetItem(owner, key);
  return PyObject_CallFunctionObjArgs(key, owner, nullptr);
}

int compare(int64_t way, PyObject* owner, PyObject* key, PyObject* value, PyObject* alike) {
  if (way == kEqual) return PyObject_RichCompareBool(owner, value, Py_EQ);
  if (way == kNoEntry) {
    const int there = PySequence_Contains(owner, key);
    return there < 0 ? kError : !there;
  }
  const Owned now(ask(way, owner, key));
  if (now.object == nullptr) return kError;
  if (now.object == value) return kHolds;
  const Owned answer(PyObject_CallFunctionObjArgs(alike, now.object, value, nullptr));
  return answer.object == nullptr ? kError : answer.object == Py_True;
}

int look(int64_t how, PyObject* const* fact, PyObject* alike) {
  const bool owner_weakly = how & kOwnerWeakly;
  const bool value_weakly = how & kValueWeakly;
  const Owned owner(held(fact[1], owner_weakly));
  if (owner.object == nullptr) return kError;
  if (owner_weakly && owner.object == Py_None) return kHolds;
  const Owned value(held(fact[3], value_weakly));
  if (value.object == nullptr) return kError;
  if (value_weakly && value.object == Py_None) return kChanged;
  return compare(how & (kOwnerWeakly - 1), owner.object, fact[2], value.object, alike);
}

}  // namespace

PyObject* outdated(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  if (n_args % kFactWidth != 1) {
    PyErr_Format(PyExc_TypeError, "outdated() takes alike and four for each fact, but %zd were given",
                 n_args);
    return nullptr;
  }
  for (Py_ssize_t i = 1; i < n_args; i += kFactWidth) {
    int64_t how;
    if (!read_int(args[i], "how", 0, kEqual | kOwnerWeakly | kValueWeakly, &how)) return nullptr;
    const int result = look(how, args + i, args[0]);
    if (result == kHolds) continue;
    if (result == kError && !PyErr_ExceptionMatches(PyExc_Exception)) return nullptr;
    PyErr_Clear();  // what cannot be asked any more has changed
    Py_RETURN_TRUE;
  }
  Py_RETURN_FALSE;
}

}  // namespace fused_sched
