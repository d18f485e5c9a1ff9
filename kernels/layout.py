"""The layouts of control block and records as constants that kernels may use."""

import triton.language as tl

from ..memory.bindings import SILENT, SINGLE
from ..memory.control_block import BOUND, FIELDS, FLAGS, GROUP_STRIDE, GROUPS_OFFSET, HEADER, MEASURED
from ..memory.device_table import UNIT
from ..memory.parameter_table import RECORD, RECORD_WIDTH
from ..step_options import STABILIZER as STABILIZER_OF_NORMS

CHUNK_UNIT = tl.constexpr(UNIT)
SKIPPED = tl.constexpr(HEADER["skipped"])
TICKET = tl.constexpr(HEADER["ticket"])
GRAD_NORM = tl.constexpr(HEADER["grad_norm"])
SKIPPED_STEPS = tl.constexpr(HEADER["skipped_steps"])
NORMS_SEEN = tl.constexpr(HEADER["norms_seen"])
SEED = tl.constexpr(HEADER["seed"])
UPDATES = tl.constexpr(HEADER["updates"])
GROUPS = tl.constexpr(GROUPS_OFFSET)
STRIDE = tl.constexpr(GROUP_STRIDE)
BOUND_WORDS = tl.constexpr(BOUND)
IS_SINGLE = tl.constexpr(SINGLE)
IS_SILENT = tl.constexpr(SILENT)

LR = tl.constexpr(FIELDS["lr"])
WEIGHT_DECAY = tl.constexpr(FIELDS["weight_decay"])
MOMENTUM = tl.constexpr(FIELDS["momentum"])
DAMPENING = tl.constexpr(FIELDS["dampening"])
BETA1 = tl.constexpr(FIELDS["beta1"])
BETA2 = tl.constexpr(FIELDS["beta2"])
EPS = tl.constexpr(FIELDS["eps"])
FLAGS_FIELD = tl.constexpr(FIELDS["flags"])
MAX_GRAD_NORM = tl.constexpr(FIELDS["max_grad_norm"])
EMA_DECAY = tl.constexpr(FIELDS["ema_decay"])
CLIP_FACTOR = tl.constexpr(MEASURED["clip_factor"])
STABILIZER = tl.constexpr(STABILIZER_OF_NORMS)
GROUP_NORM = tl.constexpr(MEASURED["group_norm"])
MAXIMIZE = tl.constexpr(FLAGS["maximize"])
NESTEROV = tl.constexpr(FLAGS["nesterov"])
DECOUPLED = tl.constexpr(FLAGS["decoupled_weight_decay"])

WIDTH = tl.constexpr(RECORD_WIDTH)
PARAM = tl.constexpr(RECORD["param"])
STATE0 = tl.constexpr(RECORD["state0"])
STATE1 = tl.constexpr(RECORD["state1"])
STATE2 = tl.constexpr(RECORD["state2"])
NUMEL = tl.constexpr(RECORD["numel"])
ROW = tl.constexpr(RECORD["row"])
MASTER = tl.constexpr(RECORD["master"])
AVERAGE = tl.constexpr(RECORD["average"])
