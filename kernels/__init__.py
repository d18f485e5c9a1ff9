"""The Triton kernels. This folder is installed as ``fused_sched.kernels``; import it by that name only."""
