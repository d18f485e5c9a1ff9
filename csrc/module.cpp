// The Python module fused_sched._C.
#include <vector>

#include "control_block.h"
#include "cpu/measure.h"
#include "cpu/update.h"
#include "direct.h"
#include "python.h"
#include "schedule.h"
#include "ways.h"

namespace fused_sched {
namespace {

Capability chosen_capability;
constexpr int kMessageSize = 512;

// One-element float32 tensor or None. Returns false with a Python exception set.
bool read_optional(PyObject* object, const char* name, bool* given, float* value) {
  *given = object != Py_None;
  if (!*given) return true;
  Argument argument;
  if (!read_tensor(object, {name, kDLFloat, 32, "float32", 0, 1}, &argument)) return false;
  *value = *static_cast<const float*>(argument.data);
  return true;
}

// Kept from step to step, so that a step allocates nothing.
thread_local std::vector<Schedule> schedules;

bool read_schedules(PyObject* tuple, const Control& control) {
  if (!PyTuple_Check(tuple)) {
    PyErr_Format(PyExc_TypeError, "schedules=%R must be a tuple", tuple);
    return false;
  }
  const Py_ssize_t count = PyTuple_Size(tuple);
  schedules.resize(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!read_schedule(PyTuple_GetItem(tuple, i), control, &schedules[i])) return false;
  }
  return true;
}

// Arguments 1 to 6 of update(): the rule, the control block and the work list.
bool read_update(PyObject* const* args, Update* update, Control* control) {
  Argument counts, records, chunks;
  int64_t rule;
  if (!read_int(args[0], "rule", 0, kRuleCount - 1, &rule) ||
      !read_control(args[1], control) ||
      !read_tensor(args[2], {"counts", kDLInt, 64, "int64", 0, 0}, &counts) ||
      !read_tensor(args[3], {"records", kDLInt, 64, "int64", kRecordWidth, 0}, &records) ||
      !read_tensor(args[4], {"chunks", kDLInt, 64, "int64", 2, 0}, &chunks) ||
      !read_int(args[5], "chunk", 1, INT64_MAX, &update->chunk_size)) {
    return false;
  }
  update->kernels = chosen_capability.kernels;
  update->rule = static_cast<int>(rule);
  update->control = control->data;
  update->n_rows = control->n_rows;
  update->counts = static_cast<int64_t*>(counts.data);
  update->n_counts = counts.count;
  update->records = static_cast<const Record*>(records.data);
  update->n_records = records.count / kRecordWidth;
  update->chunks = static_cast<const Chunk*>(chunks.data);
  update->n_chunks = chunks.count / 2;
  return true;
}

// (records, chunks) of each table.
bool read_tables(PyObject* tuple, std::vector<Gradients>* tables) {
  if (!PyTuple_Check(tuple)) {
    PyErr_Format(PyExc_TypeError, "tables=%R must be a tuple", tuple);
    return false;
  }
  for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); ++i) {
    PyObject* item = PyTuple_GetItem(tuple, i);
    Argument records, chunks;
    if (!PyTuple_Check(item) || PyTuple_Size(item) != 2) {
      PyErr_Format(PyExc_TypeError, "tables[%zd]=%R must be a tuple (records, chunks)", i, item);
      return false;
    }
    if (!read_tensor(PyTuple_GetItem(item, 0), {"records", kDLInt, 64, "int64", kRecordWidth, 0}, &records) ||
        !read_tensor(PyTuple_GetItem(item, 1), {"chunks", kDLInt, 64, "int64", 2, 0}, &chunks)) {
      return false;
    }
    tables->push_back({static_cast<const Record*>(records.data), records.count / kRecordWidth,
                       static_cast<const Chunk*>(chunks.data), chunks.count / 2});
  }
  return true;
}

// norms, the least number of them, and deviations; None for norms without a SpikeRule.
bool read_spikes(PyObject* const* args, const int64_t* header, Spikes* spikes) {
  *spikes = {};
  if (args[0] == Py_None) return true;
  Argument norms;
  if (!read_tensor(args[0], {"norms", kDLFloat, 64, "float64", 0, 1}, &norms) ||
      !read_int(args[1], "least", 0, INT64_MAX, &spikes->least)) {
    return false;
  }
  if (header[kHeaderNormsSeen] < 0) {
    PyErr_Format(PyExc_ValueError, "control says that %lld norms were seen, but there are at least 0",
                 static_cast<long long>(header[kHeaderNormsSeen]));
    return false;
  }
  spikes->norms = static_cast<double*>(norms.data);
  spikes->window = norms.count;
  spikes->deviations = PyFloat_AsDouble(args[2]);
  return !PyErr_Occurred();
}

// None, or a number for each group. Returns false with a Python exception set.
bool read_sums(PyObject* object, int64_t n_groups, double** sums) {
  *sums = nullptr;
  if (object == Py_None) return true;
  Argument argument;
  if (!read_tensor(object, {"sums", kDLFloat, 64, "float64", 0, n_groups}, &argument)) return false;
  *sums = static_cast<double*>(argument.data);
  return true;
}

// Arguments 1 to 4 of measure() and sum_squares().
bool read_measured(PyObject* const* args, Measurement* m, Control* control) {
  Argument groups;
  if (!read_control(args[0], control) || !read_tables(args[1], &m->tables) ||
      !read_int(args[2], "chunk", 1, INT64_MAX, &m->chunk_size) ||
      !read_tensor(args[3], {"groups", kDLInt, 64, "int64", 2, 0}, &groups)) {
    return false;
  }
  m->kernels = chosen_capability.kernels;
  m->control = control->data;
  m->n_rows = control->n_rows;
  m->groups = static_cast<const MeasuredGroup*>(groups.data);
  m->n_groups = groups.count / 2;
  return true;
}

bool is_sane(const Measurement& m) {
  char message[kMessageSize];
  if (check_measurement(m, message, kMessageSize)) return true;
  PyErr_SetString(PyExc_ValueError, message);
  return false;
}

PyObject* sum_squares(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Measurement m{};
  Control control;
  double* sums = nullptr;
  if (!check_argument_count("sum_squares", n_args, 5) || !read_measured(args, &m, &control) ||
      !read_sums(args[4], m.n_groups, &sums)) {
    return nullptr;
  }
  if (sums == nullptr) {
    PyErr_SetString(PyExc_TypeError, "sums=None must be a tensor of float64 with a place for each group");
    return nullptr;
  }
  if (!is_sane(m)) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  sum_squares(m, sums);
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

PyObject* measure(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Measurement m{};
  Control control;
  int64_t each, only_finite;
  bool given;
  double* sums;
  float grad_scale = 1.0f, found_inf = 0.0f;
  if (!check_argument_count("measure", n_args, 12) || !read_measured(args, &m, &control) ||
      !read_int(args[4], "each", 0, 1, &each) || !read_optional(args[5], "grad_scale", &given, &grad_scale) ||
      !read_optional(args[6], "found_inf", &given, &found_inf) ||
      !read_int(args[7], "only_finite", 0, 1, &only_finite) ||
      !read_spikes(args + 8, reinterpret_cast<const int64_t*>(control.data), &m.spikes) ||
      !read_sums(args[11], m.n_groups, &sums)) {
    return nullptr;
  }
  m.sums = sums;
  m.each = each != 0;
  m.grad_scale = grad_scale;
  m.found_inf = found_inf != 0.0f;
  m.only_finite = only_finite != 0;
  if (!is_sane(m)) return nullptr;
  Py_BEGIN_ALLOW_THREADS;
  run_measurement(m);
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"scan", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(scan)), METH_FASTCALL,
     "scan(groups, ids, layouts, records, needed, held, specs[, device_type, device_id]) -> int\n\n"
     "Compare the parameter table with the tensors and follow moved gradients; needed counts the\n"
     "state tensors of each record. held is emptied, and then has the gradients that only it\n"
     "keeps until the update. specs, or None without DTensors, has for each parameter how it is\n"
     "spread (None: it is none), and a place for the same of its gradient. All tensors have to be\n"
     "on the device, as __dlpack_device__ writes it; the default is the CPU.\n"
     "0: nothing changed; 1: a gradient's address changed; 2: rebuild the table."},
    {"layout", layout, METH_O,
     "layout(tensor) -> int\n\nNon-zero hash of dtype, shape and strides."},
    {"reads_directly", static_cast<PyCFunction>(reads_directly), METH_NOARGS,
     "reads_directly() -> bool\n\nWhether scan() would ask a plain tensor's grad of C++ alone, as things are now."},
    {"update", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(update)), METH_FASTCALL,
     "update(rule, control, counts, records, chunks, chunk, grad_scale, found_inf, schedules, ways)\n"
     "    -> None\n\n"
     "One optimizer step by the rule at that position of rules(), then an advance of each schedule\n"
     "(code, n_uniform, memory, n_lanes, rows_offset, guarded). ways is a sum: 1, measure() has said\n"
     "whether the step is skipped; 2, and what gradients are multiplied by; 4, leave zeros in them; 8, parameters\n"
     "may be rounded by chance."},
    {"measure", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(measure)), METH_FASTCALL,
     "measure(control, tables, chunk, groups, each, grad_scale, found_inf, only_finite, norms, least,\n"
     "    deviations, sums) -> None\n\n"
     "Write the norm of the gradients of all tables (records, chunks), the clip factor of each group\n"
     "(row, whether it has one) and whether the step is skipped to the control block. each: by\n"
     "a norm of each group's own gradients. norms: what a SpikeRule remembers, or None. sums: more\n"
     "squares of each group, or None."},
    {"sum_squares", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(sum_squares)), METH_FASTCALL,
     "sum_squares(control, tables, chunk, groups, sums) -> None\n\n"
     "Write the sum of the squares of each group's gradients."},
    {"advance", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(advance_schedule)),
     METH_FASTCALL,
     "advance(control, schedule) -> None\n\n"
     "One advance of a schedule (code, n_uniform, memory, n_lanes, rows_offset, guarded). The code\n"
     "is trusted: see check_program. Of its memory, n_lanes numbers from rows_offset on are the rows\n"
     "of the control block that it drives."},
    {"check_program", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(check_program)),
     METH_FASTCALL,
     "check_program(code, n_uniform, memory_size, n_lanes, rows_offset) -> None\n\n"
     "Raise ValueError if the code would touch what is not its own."},
    {"outdated", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(outdated)), METH_FASTCALL,
     "outdated(alike, *facts) -> bool\n\n"
     "Whether one of the facts, of which each is how, owner, key, value, does not hold any more, or\n"
     "asking raises. alike(now, value) is called where what was asked for is another object."},
    {"rules", rules, METH_NOARGS, "rules() -> tuple[str, ...]\n\nThe update rules."},
    {"capability", capability, METH_NOARGS,
     "capability() -> str\n\nThe instruction set in use: portable, avx2 or avx512."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "fused_sched._C", "The CPU backend.", -1, methods,
    nullptr,               nullptr,          nullptr,            nullptr,
};

bool load_capability() {
  char message[kMessageSize];
  if (choose_capability(&chosen_capability, message, kMessageSize)) return true;
  PyErr_SetString(PyExc_ValueError, message);
  return false;
}

}  // namespace

PyObject* update(PyObject*, PyObject* const* args, Py_ssize_t n_args) {
  Update step;
  Control control;
  bool guarded;
  int64_t ways;
  float grad_scale = 1.0f;
  float found_inf = 0.0f;
  if (!check_argument_count("update", n_args, 10) || !read_update(args, &step, &control) ||
      !read_optional(args[6], "grad_scale", &step.scaled, &grad_scale) ||
      !read_optional(args[7], "found_inf", &guarded, &found_inf) || !read_schedules(args[8], control) ||
      !read_int(args[9], "ways", 0, kEveryWay, &ways)) {
    return nullptr;
  }
  int64_t* header = reinterpret_cast<int64_t*>(control.data);
  step.grad_scale = grad_scale;
  step.clipped = (ways & kWayClipped) != 0;
  step.zeroes = (ways & kWayZeroes) != 0;
  step.skipped = (ways & kWayMeasured) != 0 ? header[kHeaderSkipped] != 0 : guarded && found_inf != 0.0f;
  const bool idle = step.skipped && !step.zeroes;
  char message[kMessageSize];
  if (!idle && !prepare_update(step, message, kMessageSize)) {
    PyErr_SetString(PyExc_ValueError, message);
    return nullptr;
  }
  header[kHeaderSkipped] = step.skipped ? 1 : 0;
  Py_BEGIN_ALLOW_THREADS;
  if (!idle) run_update(step);
  if (!step.skipped && (ways & kWayDraws) != 0) ++header[kHeaderUpdates];
  for (const Schedule& schedule : schedules) run_schedule(schedule, control.data);
  Py_END_ALLOW_THREADS;
  Py_RETURN_NONE;
}

template <typename... Rs>
PyObject* names_of(List<Rs...>) {
  PyObject* names = PyTuple_New(sizeof...(Rs));
  Py_ssize_t i = 0;
  for (const char* name : {Rs::kName...}) {
    PyObject* item = names == nullptr ? nullptr : PyUnicode_FromString(name);
    if (item == nullptr || PyTuple_SetItem(names, i++, item) != 0) {
      Py_XDECREF(names);
      return nullptr;
    }
  }
  return names;
}

PyObject* rules(PyObject*, PyObject*) { return names_of(common::Rules{}); }

PyObject* capability(PyObject*, PyObject*) {
  return PyUnicode_FromString(chosen_capability.name);
}

}  // namespace fused_sched

PyMODINIT_FUNC PyInit__C() {
  using namespace fused_sched;
  if (!load_torch() || !load_direct() || !load_scan() || !load_capability()) return nullptr;
  return PyModule_Create(&definition);
}
