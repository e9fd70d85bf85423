# Everything that miq links, as imported targets. Debian packages, and LibTorch from the PyPI wheel
# torch 2.11.0. LibTorch's own CMake package demands a CUDA toolkit even for CPU programs, so its two
# CPU libraries are imported here by path.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(CLI11 2.1 REQUIRED)
find_package(PkgConfig REQUIRED)
foreach(dependency zstd:libzstd xxhash:libxxhash utf8proc:libutf8proc zlib:zlib)
  string(REPLACE ":" ";" pair ${dependency})
  list(GET pair 0 name)
  list(GET pair 1 module)
  pkg_check_modules(${name} REQUIRED IMPORTED_TARGET ${module})
endforeach()

file(GLOB torch_candidates ${CMAKE_SOURCE_DIR}/.deps/venv/lib/python3*/site-packages/torch)
set(torch_default "")
if(torch_candidates)
  list(GET torch_candidates 0 torch_default)
endif()
set(MIQ_TORCH_DIR "${torch_default}" CACHE PATH "Folder of the installed torch 2.11.0 wheel (…/site-packages/torch)")
if(NOT EXISTS "${MIQ_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch not found in '${MIQ_TORCH_DIR}'. Run tools/setup, or pass -DMIQ_TORCH_DIR=…/site-packages/torch.")
endif()
file(STRINGS ${MIQ_TORCH_DIR}/version.py torch_version REGEX "^__version__")
if(NOT torch_version MATCHES "2\\.11\\.0")
  message(WARNING "miq is developed against torch 2.11.0; found ${torch_version}")
endif()

foreach(library c10 torch_cpu)
  add_library(miq::${library} SHARED IMPORTED GLOBAL)
  set_target_properties(miq::${library} PROPERTIES IMPORTED_LOCATION ${MIQ_TORCH_DIR}/lib/lib${library}.so)
endforeach()
add_library(miq::torch INTERFACE IMPORTED GLOBAL)
# Imported, so its headers are not held to our warnings.
set_target_properties(miq::torch PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${MIQ_TORCH_DIR}/include;${MIQ_TORCH_DIR}/include/torch/csrc/api/include"
  INTERFACE_LINK_LIBRARIES "miq::torch_cpu;miq::c10")
set(CMAKE_INSTALL_RPATH ${MIQ_TORCH_DIR}/lib)
