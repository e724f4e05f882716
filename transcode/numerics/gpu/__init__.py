"""The kernels on a GPU, through torch: same arguments, same bytes.

Kernels are sequences of torch's eager operations, which round as IEEE 754 says on every device that torch
has, with two cares: a divisor is always a tensor (by a Python number torch multiplies with a rounded
reciprocal on GPUs), and sums of errors are taken in the order of the CPU. So they run on torch's CPU device
too, where they are compared with the compiled kernels on every machine. The searches for the best scale,
which take a hundred operations for each value, are one Triton kernel where Triton is installed.

Only ``numerics.backend`` imports from here.
"""
