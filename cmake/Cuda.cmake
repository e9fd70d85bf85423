# CUDA sources, compiled by calling nvcc directly: CMake 3.25 does not know the C++20 flag of nvcc 13,
# and none of our .cu files needs more than C++17 and the CUDA runtime.
