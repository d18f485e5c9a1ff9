// What makes an encoded program safe to run, whoever runs it. Nothing of it is looked at again later.
#pragma once

#include "program.h"

namespace fused_sched {

constexpr int64_t kMaxLanes = 1 << 24;

// A program and the memory that it is given.
struct Encoded {
  const int32_t* code;
  int64_t n_ops;
  int64_t n_uniform;
  int64_t memory_size;
  int64_t n_lanes;
  int64_t rows_offset;
};

// Which of the words after the op code an operation uses.
struct Shape {
  int operands;   // how many are positions of values, from word `first` on
  int first;
  bool memory;    // word 1 is an offset into the memory
  bool per_lane;  // ... of one element for each lane
  bool field;     // word 1 is a field of the control block
};

// Operands of an arithmetic operation: the words from 1 on that are positions of values.
inline int operand_count(int op) {
  if (op == kOpWhere) return 3;
  return op >= kOpNot ? 1 : 2;
}

inline Shape shape_of(int op) {
  switch (op) {
    case kOpLoad: return {0, 2, true, false, false};
    case kOpLoadGroup: return {0, 2, true, true, false};
    case kOpField:
    case kOpBoundField: return {0, 2, false, false, true};
    case kOpLookup: return {1, 2, true, false, false};
    case kOpStore: return {1, 2, true, false, false};
    case kOpStoreGroup: return {1, 2, true, true, false};
    case kOpStoreField:
    case kOpStoreBound: return {1, 2, false, false, true};
    default: return {operand_count(op), 1, false, false, false};
  }
}

inline bool is_store(int op) {
  return op == kOpStore || op == kOpStoreGroup || op == kOpStoreField || op == kOpStoreBound;
}

inline bool depends_on_lane(const int32_t* word, const Shape& shape) {
  return shape.per_lane || shape.field || (word[0] == kOpLookup && word[4] > 1);
}

inline bool leaves_words_unused(const int32_t* word, const Shape& shape) {
  const int end = word[0] == kOpLookup ? kCodeWidth : shape.first + shape.operands;
  for (int k = end; k < kCodeWidth; ++k) {
    if (word[k] != 0) return false;
  }
  return true;
}

// How many elements of memory an operation may touch, from its offset on. At most 2 ** 62.
inline int64_t extent(const int32_t* word, const Shape& shape, int64_t n_lanes) {
  if (word[0] == kOpLookup) return static_cast<int64_t>(word[3]) * word[4];
  return shape.per_lane ? n_lanes : 1;
}

inline const char* find_problem_in_operands(const Encoded& program, int64_t i, const Shape& shape) {
  const int32_t* word = program.code + i * kCodeWidth;
  for (int k = shape.first; k < shape.first + shape.operands; ++k) {
    if (word[k] < 0 || word[k] >= i) return "uses a value that is not computed before it";
    if (is_store(program.code[word[k] * kCodeWidth])) return "uses the value of a store: it has none";
  }
  if (!leaves_words_unused(word, shape)) return "has a word that it does not use and that is not 0";
  return nullptr;
}

inline const char* find_problem_in_memory(const Encoded& program, const int32_t* word,
                                          const Shape& shape) {
  const int64_t end = word[1] + extent(word, shape, program.n_lanes);
  if (word[1] < 0 || end > program.memory_size) {
    return "reads or writes outside of the schedule's memory";
  }
  if (word[1] < program.rows_offset + program.n_lanes && end > program.rows_offset) {
    return "reads or writes the rows that the lanes drive";
  }
  return nullptr;
}

// Returns what is wrong with operation i, or null.
inline const char* find_problem(const Encoded& program, int64_t i) {
  const int32_t* word = program.code + i * kCodeWidth;
  if (word[0] < 0 || word[0] >= kOpCount) return "has an unknown op code";
  const Shape shape = shape_of(word[0]);
  if (const char* problem = find_problem_in_operands(program, i, shape)) return problem;
  // So what runs once uses only values that were computed once: its operands come before it.
  if (i < program.n_uniform && depends_on_lane(word, shape)) {
    return "depends on the group, but is among the operations that run once";
  }
  if (i >= program.n_uniform && word[0] == kOpStore) {
    return "writes one number, but is among the operations that run for each group";
  }
  if (word[0] == kOpLookup &&
      (word[3] < 1 || (word[4] != 1 && (word[4] != program.n_lanes || word[4] < 1)))) {
    return "reads a table without rows, or one whose width is not 1 or the number of groups";
  }
  if (shape.field && (word[1] < 0 || word[1] >= kBound)) {
    return "names a field outside of the group's row";
  }
  return shape.memory ? find_problem_in_memory(program, word, shape) : nullptr;
}

}  // namespace fused_sched
