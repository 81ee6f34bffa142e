# The Hopper kernels: wgmma exists on sm_90a alone. A way to multiply a file, so that they compile side by side.
add_library(ort_cks_hopper OBJECT
  ops_cuda/hopper/configs.cc
  ops_cuda/hopper/deal.cc
  ops_cuda/hopper/gradient_bfloat16.cu
  ops_cuda/hopper/gradient_boxes.cc
  ops_cuda/hopper/gradient_cost.cc
  ops_cuda/hopper/gradient_float.cu
  ops_cuda/hopper/gradient_half.cu
  ops_cuda/hopper/gradient_passes.cu
  ops_cuda/hopper/gradient_schedule.cc
  ops_cuda/hopper/gradient_tables.cc
  ops_cuda/hopper/gradient_taps.cc
  ops_cuda/hopper/halve.cu
  ops_cuda/hopper/halved_input.cc
  ops_cuda/hopper/hopper_conv.cc
  ops_cuda/hopper/hopper_conv_bfloat16.cu
  ops_cuda/hopper/hopper_conv_fp32.cu
  ops_cuda/hopper/hopper_conv_half.cu
  ops_cuda/hopper/hopper_conv_halved.cu
  ops_cuda/hopper/hopper_conv_tf32.cu
  ops_cuda/hopper/pack_halves.cu
  ops_cuda/hopper/patch.cc
  ops_cuda/hopper/runs.cc
  ops_cuda/hopper/schedule.cc
  ops_cuda/hopper/schedule_cost.cc
  ops_cuda/hopper/weight_gradient.cc)
target_include_directories(ort_cks_hopper PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(ort_cks_hopper PUBLIC ort_cks_plan CUDA::cudart_static)
set_target_properties(ort_cks_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real)
