# The CUDA kernels, one object library. Kernels of each way to multiply are a file of their own, so that they compile
# side by side.
add_library(ort_cks_cuda OBJECT
  ops_cuda/concatenated_conv.cu
  ops_cuda/convolution.cc
  ops_cuda/depthwise.cu
  ops_cuda/depthwise_plan.cc
  ops_cuda/device_epilogue.cc
  ops_cuda/device_plan.cc
  ops_cuda/direct_conv.cu
  ops_cuda/few_inputs.cc
  ops_cuda/few_inputs_bfloat16.cu
  ops_cuda/few_inputs_float.cu
  ops_cuda/few_inputs_half.cu
  ops_cuda/few_inputs_plan.cc
  ops_cuda/few_inputs_tf32.cu
  ops_cuda/few_outputs.cc
  ops_cuda/few_outputs_bfloat16.cu
  ops_cuda/few_outputs_float.cu
  ops_cuda/few_outputs_half.cu
  ops_cuda/few_outputs_plan.cc
  ops_cuda/few_outputs_tf32.cu
  ops_cuda/few_pixels_gradient.cu
  ops_cuda/few_pixels_plan.cc
  ops_cuda/kernel_choice.cc
  ops_cuda/max_pool.cu
  ops_cuda/pack.cu
  ops_cuda/portable_conv.cc
  ops_cuda/portable_conv_bf16.cu
  ops_cuda/portable_conv_bf16_fma.cu
  ops_cuda/portable_conv_fp16.cu
  ops_cuda/portable_conv_fp32.cu
  ops_cuda/portable_conv_tf32.cu
  ops_cuda/portable_pieces.cc
  ops_cuda/portable_plan.cc
  ops_cuda/problem_text.cc
  ops_cuda/relu_each.cu
  ops_cuda/tile_choice.cc
  ops_cuda/tile_search.cc
  ops_cuda/weight_gradient.cu
  ops_cuda/weight_gradient_gemm.cu)
target_include_directories(ort_cks_cuda PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(ort_cks_cuda PUBLIC ort_cks_plan CUDA::cudart_static)

if("90a" IN_LIST ORT_CKS_CUDA_ARCHITECTURES)
  include(ops_cuda/hopper/sources.cmake)
  target_sources(ort_cks_hopper PRIVATE ops_cuda/few_inputs_wgmma_bfloat16.cu ops_cuda/few_inputs_wgmma_half.cu)
  target_compile_definitions(ort_cks_cuda PUBLIC ORT_CKS_HOPPER)
  target_sources(ort_cks_cuda INTERFACE $<TARGET_OBJECTS:ort_cks_hopper>)
endif()
