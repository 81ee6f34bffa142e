// The layers of the benchmark suite for programs that time kernels without ONNX Runtime, and how they time: the median
// of 20 replays of a CUDA graph of 10 launches on the same NHWC buffers of normal random data, so mostly from L2.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ops_cuda/convolution.h"

namespace cks::benchmark {

inline constexpr int kLaunches = 10, kReplays = 20;

// What a program is called with: parts of the names of the layers that it is to time; none for all.
using Parts = std::vector<const char*>;

inline bool wanted(const std::string& name, const Parts& parts) {
  return parts.empty() || std::ranges::any_of(parts, [&](const char* part) { return name.find(part) != name.npos; });
}

struct Layer {
  std::string name;
  Operator op;
  int64_t N, C, K, H, W, kernel, stride, pad, dilation, output_padding, groups;
  int rank = 2;  // 1: along W alone; 3: as deep as high
};

inline constexpr Operator kC = Operator::kConv, kT = Operator::kConvTranspose;
inline const Layer kLayers[] = {
    {"dcgan_g2", kT, 64, 512, 256, 4, 4, 4, 2, 1, 1, 0, 1},
    {"dcgan_g3", kT, 64, 256, 128, 8, 8, 4, 2, 1, 1, 0, 1},
    {"dcgan_g4", kT, 64, 128, 64, 16, 16, 4, 2, 1, 1, 0, 1},
    {"dcgan_g2_b1", kT, 1, 512, 256, 4, 4, 4, 2, 1, 1, 0, 1},
    {"pix2pix_u1_b1", kT, 1, 512, 512, 1, 1, 4, 2, 1, 1, 0, 1},
    {"pix2pix_u3_b1", kT, 1, 1024, 512, 4, 4, 4, 2, 1, 1, 0, 1},
    {"pix2pix_u5_b1", kT, 1, 1024, 256, 16, 16, 4, 2, 1, 1, 0, 1},
    {"pose_d1_b1", kT, 1, 2048, 256, 8, 6, 4, 2, 1, 1, 0, 1},
    {"pose_d3_b1", kT, 1, 256, 256, 32, 24, 4, 2, 1, 1, 0, 1},
    {"pose_d3_b32", kT, 32, 256, 256, 32, 24, 4, 2, 1, 1, 0, 1},
    {"maskrcnn_up", kT, 100, 256, 256, 14, 14, 2, 2, 0, 1, 0, 1},
    {"sam_up1", kT, 1, 256, 64, 64, 64, 2, 2, 0, 1, 0, 1},
    {"ks3_s2_4", kT, 128, 256, 256, 4, 4, 3, 2, 1, 1, 1, 1},
    {"ks3_s2_8", kT, 128, 256, 256, 8, 8, 3, 2, 1, 1, 1, 1},
    {"ks3_s2_16", kT, 128, 128, 128, 16, 16, 3, 2, 1, 1, 1, 1},
    {"ks5_s2_8", kT, 128, 128, 128, 8, 8, 5, 2, 2, 1, 1, 1},
    {"conv512_4_b128", kC, 128, 512, 512, 4, 4, 3, 1, 1, 1, 0, 1},
    {"conv512_2_b128", kC, 128, 512, 512, 2, 2, 3, 1, 1, 1, 0, 1},
    {"conv512_7_b1", kC, 1, 512, 512, 7, 7, 3, 1, 1, 1, 0, 1},
    {"conv512_7_b32", kC, 32, 512, 512, 7, 7, 3, 1, 1, 1, 0, 1},
    {"conv256_8_k5_b128", kC, 128, 256, 256, 8, 8, 5, 1, 2, 1, 0, 1},
    {"conv256_14_b32", kC, 32, 256, 256, 14, 14, 3, 1, 1, 1, 0, 1},
    {"aspp12_33", kC, 1, 2048, 256, 33, 33, 3, 1, 12, 12, 0, 1},
    {"aspp24_33", kC, 1, 2048, 256, 33, 33, 3, 1, 24, 24, 0, 1},
    {"aspp36_33", kC, 1, 2048, 256, 33, 33, 3, 1, 36, 36, 0, 1},
    {"aspp24_65", kC, 1, 2048, 256, 65, 65, 3, 1, 24, 24, 0, 1},
    {"aspp36_65_b8", kC, 8, 2048, 256, 65, 65, 3, 1, 36, 36, 0, 1},
    {"res5_d4_65", kC, 1, 512, 512, 65, 65, 3, 1, 4, 4, 0, 1},
};

// What takes most of the time in U-Net, ResNet-18 on CIFAR, HiFi-GAN, DeepLabV3's trunk and the pose net.
inline const Layer kModelLayers[] = {
    {"unet_64_512", kC, 1, 64, 64, 512, 512, 3, 1, 1, 1, 0, 1},
    {"unet_128_64_512", kC, 1, 128, 64, 512, 512, 3, 1, 1, 1, 0, 1},
    {"unet_128_256", kC, 1, 128, 128, 256, 256, 3, 1, 1, 1, 0, 1},
    {"unet_512_64", kC, 1, 512, 512, 64, 64, 3, 1, 1, 1, 0, 1},
    {"resnet18_64_32_b128", kC, 128, 64, 64, 32, 32, 3, 1, 1, 1, 0, 1},
    {"resnet18_128_16_b128", kC, 128, 128, 128, 16, 16, 3, 1, 1, 1, 0, 1},
    {"resnet18_256_8_b128", kC, 128, 256, 256, 8, 8, 3, 1, 1, 1, 0, 1},
    {"hifigan_256_k7_d3", kC, 1, 256, 256, 1, 1600, 7, 1, 9, 3, 0, 1, 1},
    {"hifigan_128_k11_d5", kC, 1, 128, 128, 1, 12800, 11, 1, 25, 5, 0, 1, 1},
    {"deeplab_256_d2_65", kC, 1, 256, 256, 65, 65, 3, 1, 2, 2, 0, 1},
    {"deeplab_64_129", kC, 1, 64, 64, 129, 129, 3, 1, 1, 1, 0, 1},
    {"pose_128_b1", kC, 1, 128, 128, 32, 24, 3, 1, 1, 1, 0, 1},
    {"unet3d_64_48", kC, 1, 64, 64, 48, 48, 3, 1, 1, 1, 0, 1, 3},
    {"unet3d_32_96", kC, 1, 32, 32, 96, 96, 3, 1, 1, 1, 0, 1, 3},
    {"unet3d_64_32_96", kC, 1, 64, 32, 96, 96, 3, 1, 1, 1, 0, 1, 3},
    {"hifigan_64_k7_d3", kC, 1, 64, 64, 1, 25600, 7, 1, 9, 3, 0, 1, 1},
    {"hifigan_32_k7_d3", kC, 1, 32, 32, 1, 51200, 7, 1, 9, 3, 0, 1, 1},
};

// Few or odd channels, depthwise, grouped, 1-D and 3-D, at the sizes that networks have them: stems and first layers
// (ResNet, MobileNet, U-Net, ResNet-18 on CIFAR), image outputs (DCGAN, pix2pix, CycleGAN), heads (the pose net, YOLO,
// DeepLabV2), all of FSRCNN, MobileNet, EfficientNet and ConvNeXt blocks, ResNeXt, HiFi-GAN.
inline const Layer kNarrowLayers[] = {
    {"stem7_224_b32", kC, 32, 3, 64, 224, 224, 7, 2, 3, 1, 0, 1},
    {"stem7_513", kC, 1, 3, 64, 513, 513, 7, 2, 3, 1, 0, 1},
    {"stem3_224_b32", kC, 32, 3, 32, 224, 224, 3, 2, 1, 1, 0, 1},
    {"cifar_first_b128", kC, 128, 3, 64, 32, 32, 3, 1, 1, 1, 0, 1},
    {"unet_first", kC, 1, 1, 64, 512, 512, 3, 1, 1, 1, 0, 1},
    {"unet_head", kC, 1, 64, 2, 512, 512, 1, 1, 0, 1, 0, 1},
    {"fsrcnn_first", kC, 1, 1, 56, 270, 480, 5, 1, 2, 1, 0, 1},
    {"fsrcnn_shrink", kC, 1, 56, 12, 270, 480, 1, 1, 0, 1, 0, 1},
    {"fsrcnn_map", kC, 1, 12, 12, 270, 480, 3, 1, 1, 1, 0, 1},
    {"fsrcnn_expand", kC, 1, 12, 56, 270, 480, 1, 1, 0, 1, 0, 1},
    {"fsrcnn_enlarge", kT, 1, 56, 1, 270, 480, 9, 4, 4, 1, 3, 1},
    {"dcgan_g5_b64", kT, 64, 64, 3, 32, 32, 4, 2, 1, 1, 0, 1},
    {"pix2pix_first", kC, 1, 3, 64, 256, 256, 4, 2, 1, 1, 0, 1},
    {"pix2pix_last", kT, 1, 128, 3, 128, 128, 4, 2, 1, 1, 0, 1},
    {"cyclegan_last", kC, 1, 64, 3, 256, 256, 7, 1, 3, 1, 0, 1},
    {"pose_head_b32", kC, 32, 256, 17, 64, 48, 1, 1, 0, 1, 0, 1},
    {"yolo_head", kC, 1, 1024, 255, 20, 20, 1, 1, 0, 1, 0, 1},
    {"deformable_offsets", kC, 1, 256, 18, 64, 64, 3, 1, 1, 1, 0, 1},
    {"deeplabv2_head", kC, 1, 2048, 21, 65, 65, 3, 1, 24, 24, 0, 1},
    {"depthwise_56_b32", kC, 32, 144, 144, 56, 56, 3, 1, 1, 1, 0, 144},
    {"depthwise_56_s2", kC, 32, 144, 144, 56, 56, 3, 2, 1, 1, 0, 144},
    {"depthwise_28_d2", kC, 32, 192, 192, 28, 28, 3, 1, 2, 2, 0, 192},
    {"depthwise_14_k5", kC, 32, 480, 480, 14, 14, 5, 1, 2, 1, 0, 480},
    {"depthwise_14_k7", kC, 32, 384, 384, 14, 14, 7, 1, 3, 1, 0, 384},
    {"depthwise_112_b1", kC, 1, 32, 32, 112, 112, 3, 1, 1, 1, 0, 32},
    {"depthwise_1d_k31", kC, 8, 512, 512, 1, 1000, 31, 1, 15, 1, 0, 512, 1},
    {"mobilenet_1x1_24", kC, 32, 24, 144, 56, 56, 1, 1, 0, 1, 0, 1},
    {"mobilenet_1x1_144", kC, 32, 144, 24, 56, 56, 1, 1, 0, 1, 0, 1},
    {"grouped4_56_b32", kC, 32, 128, 128, 56, 56, 3, 1, 1, 1, 0, 32},
    {"grouped16_28_b32", kC, 32, 128, 128, 28, 28, 3, 1, 1, 1, 0, 8},
    {"grouped8_28_b32", kC, 32, 256, 256, 28, 28, 3, 1, 1, 1, 0, 32},
    {"hifigan_u1", kT, 1, 512, 256, 1, 200, 16, 8, 4, 1, 0, 1, 1},
    {"hifigan_u2", kT, 1, 256, 128, 1, 1600, 16, 8, 4, 1, 0, 1, 1},
    {"hifigan_u4", kT, 1, 64, 32, 1, 25600, 4, 2, 1, 1, 0, 1, 1},
    {"hifigan_256_k3", kC, 1, 256, 256, 1, 1600, 3, 1, 1, 1, 0, 1, 1},
    {"hifigan_64_k7_d3", kC, 1, 64, 64, 1, 25600, 7, 1, 9, 3, 0, 1, 1},
    {"hifigan_32_k3", kC, 1, 32, 32, 1, 51200, 3, 1, 1, 1, 0, 1, 1},
    {"hifigan_32_k7_d3", kC, 1, 32, 32, 1, 51200, 7, 1, 9, 3, 0, 1, 1},
    {"hifigan_32_k11_d5", kC, 1, 32, 32, 1, 51200, 11, 1, 25, 5, 0, 1, 1},
    {"hifigan_last", kC, 1, 32, 1, 1, 51200, 7, 1, 3, 1, 0, 1, 1},
    {"unet3d_first", kC, 1, 1, 32, 96, 96, 3, 1, 1, 1, 0, 1, 3},
    {"unet3d_first_of_4", kC, 1, 4, 32, 96, 96, 3, 1, 1, 1, 0, 1, 3},
    {"stereo_first", kC, 1, 2, 64, 1, 48000, 7, 1, 3, 1, 0, 1, 1},
    {"latent_first", kC, 1, 4, 512, 64, 64, 3, 1, 1, 1, 0, 1},
    {"unet_32", kC, 1, 32, 32, 256, 256, 3, 1, 1, 1, 0, 1},
    {"unet_64", kC, 1, 64, 64, 512, 512, 3, 1, 1, 1, 0, 1},
    {"unet3d_32", kC, 1, 32, 32, 96, 96, 3, 1, 1, 1, 0, 1, 3},
    {"unet3d_up", kT, 1, 64, 32, 48, 48, 2, 2, 0, 1, 0, 1, 3},
    {"unet3d_head", kC, 1, 32, 2, 96, 96, 1, 1, 0, 1, 0, 1, 3},
};

// Convolutions of Concat([X, X2]): the decoders of U-Net and of its 3-D kin, pix2pix.
struct ConcatLayer {
  Layer layer;
  int64_t x2;  // channels, of the layer's C
};
inline const ConcatLayer kConcatLayers[] = {
    {{"unet_64+64_512", kC, 1, 128, 64, 512, 512, 3, 1, 1, 1, 0, 1}, 64},
    {{"unet_128+128_256", kC, 1, 256, 128, 256, 256, 3, 1, 1, 1, 0, 1}, 128},
    {{"unet_256+256_128", kC, 1, 512, 256, 128, 128, 3, 1, 1, 1, 0, 1}, 256},
    {{"unet_512+512_64", kC, 1, 1024, 512, 64, 64, 3, 1, 1, 1, 0, 1}, 512},
    {{"unet3d_32+32_96", kC, 1, 64, 32, 96, 96, 3, 1, 1, 1, 0, 1, 3}, 32},
    {{"unet3d_64+64_48", kC, 1, 128, 64, 48, 48, 3, 1, 1, 1, 0, 1, 3}, 64},
    {{"pix2pix_256+256_16", kT, 1, 512, 128, 16, 16, 4, 2, 1, 1, 0, 1}, 256},
};

// A layer of a model, as often as the model has it, and the activation that the rewriter fuses into it.
struct ModelLayer {
  const char* model;
  int times;
  ActivationKind activation;
  Layer layer;
};

// All convolutions of U-Net in 3-D on 96^3, of HiFi-GAN on 200 frames and of FSRCNN, then the stems and heads of the
// pose net and DeepLabV3.
inline std::vector<ModelLayer> model_layers() {
  std::vector<ModelLayer> layers;
  const auto add = [&](const char* model, int times, ActivationKind activation, Layer layer) {
    layers.push_back({model, times, activation, std::move(layer)});
  };
  const auto unet = [&](int times, int64_t C, int64_t K, int64_t size) {
    const std::string name = "conv_" + std::to_string(C) + "_" + std::to_string(K) + "_" + std::to_string(size);
    add("unet3d", times, ActivationKind::kRelu, {name, kC, 1, C, K, size, size, 3, 1, 1, 1, 0, 1, 3});
  };
  for (int64_t level = 0; level < 5; ++level) {
    const int64_t K = 32 << level, size = 96 >> level;
    unet(1, level == 0 ? 1 : K / 2, K, size);
    unet(level < 4 ? 2 : 1, K, K, size);
    if (level == 4) break;
    unet(1, 2 * K, K, size);
    add("unet3d", 1, ActivationKind::kNone,
        {"up_" + std::to_string(2 * K) + "_" + std::to_string(size / 2), kT, 1, 2 * K, K, size / 2, size / 2, 2, 2, 0,
         1, 0, 1, 3});
  }
  add("unet3d", 1, ActivationKind::kNone, {"head_32_2_96", kC, 1, 32, 2, 96, 96, 1, 1, 0, 1, 0, 1, 3});

  add("hifigan", 1, ActivationKind::kLeakyRelu, {"first_80_512", kC, 1, 80, 512, 1, 200, 7, 1, 3, 1, 0, 1, 1});
  for (int64_t stage = 0, W = 200; stage < 4; ++stage) {
    const int64_t C = 512 >> stage, K = C / 2, s = stage < 2 ? 8 : 2;
    add("hifigan", 1, ActivationKind::kLeakyRelu,
        {"up_" + std::to_string(C), kT, 1, C, K, 1, W, 2 * s, s, s / 2, 1, 0, 1, 1});
    W *= s;
    for (int64_t k : {3, 7, 11})
      for (int64_t d : {1, 3, 5})
        add("hifigan", d == 1 ? 4 : 1, ActivationKind::kLeakyRelu,
            {"conv_" + std::to_string(K) + "_k" + std::to_string(k) + "_d" + std::to_string(d), kC, 1, K, K, 1, W, k, 1,
             (k - 1) / 2 * d, d, 0, 1, 1});
  }
  add("hifigan", 1, ActivationKind::kTanh, {"last_32_1", kC, 1, 32, 1, 1, 51200, 7, 1, 3, 1, 0, 1, 1});

  add("fsrcnn", 1, ActivationKind::kPRelu, {"first_1_56", kC, 1, 1, 56, 270, 480, 5, 1, 2, 1, 0, 1});
  add("fsrcnn", 1, ActivationKind::kPRelu, {"shrink_56_12", kC, 1, 56, 12, 270, 480, 1, 1, 0, 1, 0, 1});
  add("fsrcnn", 4, ActivationKind::kPRelu, {"map_12_12", kC, 1, 12, 12, 270, 480, 3, 1, 1, 1, 0, 1});
  add("fsrcnn", 1, ActivationKind::kPRelu, {"expand_12_56", kC, 1, 12, 56, 270, 480, 1, 1, 0, 1, 0, 1});
  add("fsrcnn", 1, ActivationKind::kNone, {"enlarge_56_1", kT, 1, 56, 1, 270, 480, 9, 4, 4, 1, 3, 1});

  add("pose_b1", 1, ActivationKind::kRelu, {"stem7", kC, 1, 3, 64, 256, 192, 7, 2, 3, 1, 0, 1});
  add("pose_b1", 1, ActivationKind::kNone, {"head_256_17", kC, 1, 256, 17, 64, 48, 1, 1, 0, 1, 0, 1});
  add("pose_b32", 1, ActivationKind::kRelu, {"stem7", kC, 32, 3, 64, 256, 192, 7, 2, 3, 1, 0, 1});
  add("pose_b32", 1, ActivationKind::kNone, {"head_256_17", kC, 32, 256, 17, 64, 48, 1, 1, 0, 1, 0, 1});
  add("deeplab_b1", 1, ActivationKind::kRelu, {"stem7", kC, 1, 3, 64, 513, 513, 7, 2, 3, 1, 0, 1});
  add("deeplab_b1", 1, ActivationKind::kNone, {"head_256_21", kC, 1, 256, 21, 65, 65, 1, 1, 0, 1, 0, 1});
  return layers;
}

inline void must(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::printf("CUDA: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t elements) { must(cudaMalloc(&data_, size_t(elements) * sizeof(T) + 256)); }
  Buffer(int64_t elements, std::mt19937& random) : Buffer(elements) {
    std::vector<T> block(4096 + 61);  // repeated: a period that no extent shares
    std::normal_distribution<float> normal(0, 0.5f);
    for (T& e : block) e = T(normal(random));
    std::vector<T> host(static_cast<size_t>(elements));
    for (size_t i = 0; i < host.size(); i += block.size())
      std::copy_n(block.begin(), std::min(block.size(), host.size() - i), host.begin() + int64_t(i));
    must(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

inline Problem problem_of(const Layer& l) {
  Problem p;
  p.filter = {l.op, l.C, l.K, l.groups, {1, 1, 1}};
  p.N = l.N;
  p.input = {l.rank == 3 ? l.H : 1, l.H, l.W};
  const int64_t span = l.dilation * (l.kernel - 1) + 1;
  for (int i = 3 - l.rank; i < 3; ++i) {
    p.filter.extent[i] = l.kernel;
    p.stride[i] = l.stride, p.dilation[i] = l.dilation, p.pad[i] = l.pad;
    p.output[i] = l.op == kC ? (p.input[i] + 2 * l.pad - span) / l.stride + 1
                             : (p.input[i] - 1) * l.stride + span - 2 * l.pad + l.output_padding;
  }
  return p;
}

// Median microseconds of what `launch` puts into a stream.
template <class F>
double microseconds(cudaStream_t stream, F launch) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t begin, end;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < kLaunches; ++i) launch();
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&exec, graph, 0));
  must(cudaEventCreate(&begin)), must(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 3; ++i) {
    must(cudaEventRecord(begin, stream));
    must(cudaGraphLaunch(exec, stream));
    must(cudaEventRecord(end, stream));
    must(cudaEventSynchronize(end));
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  must(cudaEventDestroy(begin)), must(cudaEventDestroy(end));
  must(cudaGraphExecDestroy(exec)), must(cudaGraphDestroy(graph));
  std::ranges::nth_element(times, times.begin() + kReplays / 2);
  return times[kReplays / 2] * 1000.0 / kLaunches;
}

// Median microseconds that the host takes to put it there, one after the other without a graph.
template <class F>
double host_microseconds(cudaStream_t stream, F launch) {
  std::vector<double> times;
  for (int i = 0; i < kReplays; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int j = 0; j < kLaunches; ++j) launch();
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    must(cudaStreamSynchronize(stream));  // a full queue would make the host wait
  }
  std::ranges::nth_element(times, times.begin() + kReplays / 2);
  return times[kReplays / 2] / kLaunches;
}

}  // namespace cks::benchmark
