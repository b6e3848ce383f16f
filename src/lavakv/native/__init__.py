"""C kernels for the CPU, where the machine has a compiler; everything works without them."""
