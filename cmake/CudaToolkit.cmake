# Finds nvcc and says what the library will hold. Sets ORT_CKS_WITH_CUDA and, for the targets that follow,
# CMAKE_CUDA_ARCHITECTURES.
set(ORT_CKS_WITH_CUDA OFF)
if(NOT ORT_CKS_CUDA)
  message(STATUS "CUDA: off (ORT_CKS_CUDA=OFF); building a CPU-only library")
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "CUDA: nvcc was not found; building a CPU-only library. Put nvcc on PATH, or set CMAKE_CUDA_COMPILER or "
    "the environment variable CUDACXX, to build the CUDA kernels")
  return()
endif()

# Each capability as machine code, and the last one as PTX too, for the GPUs that come after it. A name that ends in a
# letter (90a) means that GPU alone, so it has no PTX worth keeping. What this nvcc does not know is left out.
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known COMMAND_ERROR_IS_FATAL ANY)
set(CMAKE_CUDA_ARCHITECTURES "")
foreach(architecture IN LISTS ORT_CKS_CUDA_ARCHITECTURES)
  string(REGEX MATCH "^[0-9]+" number ${architecture})
  if(known MATCHES "compute_${number}[^0-9]")
    list(APPEND CMAKE_CUDA_ARCHITECTURES ${architecture}-real)
    set(newest ${architecture})
  else()
    message(WARNING "CUDA: this nvcc does not know compute capability ${architecture}; the library will lack it")
  endif()
endforeach()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  message(FATAL_ERROR "CUDA: nvcc knows none of ORT_CKS_CUDA_ARCHITECTURES=${ORT_CKS_CUDA_ARCHITECTURES}")
endif()
if(newest MATCHES "^[0-9]+$")
  list(APPEND CMAKE_CUDA_ARCHITECTURES ${newest}-virtual)
endif()

set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.5)
  message(FATAL_ERROR "CUDA: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old, the kernels need 12.5 or newer. Set "
    "ORT_CKS_CUDA=OFF to build a CPU-only library")
endif()
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20 since 12.0
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
# Machine code for every GPU is a quarter as large compressed; the driver unpacks what it loads.
add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-Xfatbin=-compress-all>)
find_package(CUDAToolkit REQUIRED)
set(ORT_CKS_WITH_CUDA ON)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
