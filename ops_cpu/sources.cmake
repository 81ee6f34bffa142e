# ort_cks_cpu: the CPU kernels, one object library per instruction set and the code that is the same for all.
set(ORT_CKS_CPU_DIR ${CMAKE_CURRENT_LIST_DIR})

add_library(ort_cks_cpu STATIC
  ${ORT_CKS_CPU_DIR}/block_rows.cc
  ${ORT_CKS_CPU_DIR}/concatenate.cc
  ${ORT_CKS_CPU_DIR}/convolution.cc
  ${ORT_CKS_CPU_DIR}/feature_rows.cc
  ${ORT_CKS_CPU_DIR}/kernels.cc
  ${ORT_CKS_CPU_DIR}/max_pool.cc
  ${ORT_CKS_CPU_DIR}/packed_filter.cc
  ${ORT_CKS_CPU_DIR}/relu_each.cc
  ${ORT_CKS_CPU_DIR}/weight_gradient.cc)

# A build of the kernels. Always optimised (unoptimised they are a hundred times slower), and products and sums fuse where
# the hardware can.
function(ort_cks_add_isa name)
  add_library(ort_cks_cpu_${name} OBJECT ${ORT_CKS_CPU_DIR}/isa_kernels.cc)
  target_compile_definitions(ort_cks_cpu_${name} PRIVATE CKS_ISA=${name})
  target_compile_options(ort_cks_cpu_${name} PRIVATE -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast ${ARGN})
  target_sources(ort_cks_cpu PRIVATE $<TARGET_OBJECTS:ort_cks_cpu_${name}>)
endfunction()

ort_cks_add_isa(baseline)
set(ORT_CKS_CPU_TARGETS ort_cks_cpu ort_cks_cpu_baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  ort_cks_add_isa(avx2 -mavx2 -mfma -mf16c)
  ort_cks_add_isa(avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
  list(APPEND ORT_CKS_CPU_TARGETS ort_cks_cpu_avx2 ort_cks_cpu_avx512)
endif()

foreach(target IN LISTS ORT_CKS_CPU_TARGETS)
  target_include_directories(${target} PUBLIC ${ORT_CKS_CPU_DIR}/..)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
endforeach()
