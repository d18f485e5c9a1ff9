"""A GPU for tests on a machine without one: a device of torch's, a stream that can be captured, and CUDA graphs.

Every operation of torch on tensors of the device ``simulated`` runs at once, or is recorded during a capture, and so
do the launches of both GPU backends, as PTX that runs on the CPU. A replay does it all again on the same memory.
Errors, where a GPU computes garbage or refuses: the host waits inside a capture, or copies its own memory there; a
replay uses memory from outside of the capture that was freed since; torch's operations mix host and device.

Not simulated: several streams and devices, events, memory that a graph's pool gives out twice. These cannot run there:
replays of what was captured in ``torch.inference_mode``; ``conj()``, ``.real``, ``.imag`` and ``view_as_real``;
``resize_``, ``set_``, ``copy.deepcopy`` and ``torch.save`` of its tensors; convolutions and ``torch.nn.LSTM``;
``torch.Generator`` on the device; float8. ``x[mask] = number`` counts as a wait of the host there, but not on a GPU.
"""
