# CUDA sources, compiled by calling nvcc directly: CMake 3.25 does not know the C++20 flag of nvcc 13,
# and none of our .cu files needs more than C++17 and the CUDA runtime.
#
# All kernels are in one library (folder cuda/) that is opened when a device is asked for; it links the runtime statically, so one
# installation runs with and without a GPU or a driver.
if(MIQ_CUDA)
  # A toolkit on the path or in its usual place, or the pieces that tools/setup takes from PyPI.
  file(GLOB cuda_wheels ${CMAKE_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/nvidia/cu13/bin)
  find_program(MIQ_NVCC nvcc HINTS /usr/local/cuda/bin ${cuda_wheels} DOC "CUDA compiler")
  if(NOT MIQ_NVCC)
    message(FATAL_ERROR "MIQ_CUDA is on, but there is no nvcc. Run tools/setup --cuda, or pass -DMIQ_NVCC=…/bin/nvcc.")
  endif()
  file(REAL_PATH ${MIQ_NVCC} nvcc)
  cmake_path(GET nvcc PARENT_PATH cuda_bin)
  cmake_path(GET cuda_bin PARENT_PATH cuda_root)
  file(GLOB runtime_wheels ${CMAKE_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/nvidia/cu13/lib)
  find_library(MIQ_CUDART NAMES cudart_static PATHS ${cuda_root}/lib64 ${cuda_root}/lib ${cuda_root}/targets/x86_64-linux/lib ${runtime_wheels}
               NO_DEFAULT_PATH DOC "Static CUDA runtime")
  if(NOT MIQ_CUDART)
    message(FATAL_ERROR "No libcudart_static.a beside ${MIQ_NVCC}. Run tools/setup --cuda, or pass -DMIQ_CUDART=….")
  endif()
endif()

# Machine code for Ampere and Hopper, and PTX for what comes after. No fused multiply-add: a kernel rounds as its
# counterpart on the CPU does (-ffp-contract=off there).
set(MIQ_NVCC_FLAGS -std=c++17 -O3 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90])
