/** Neural networks without state: layers, models and losses as pure functions of parameters that the caller keeps. */
export { bernoulli, categorical, gaussian, type Likelihood } from "./likelihood.ts";
export { type Activation, type ActivationName, activation, flatten } from "./nn/activation.ts";
export {
  type AffineOptions,
  type AffineParams,
  type ConvLayerOptions,
  type ConvTransposeOptions,
  conv,
  convTranspose,
  dense,
} from "./nn/affine.ts";
export {
  attention,
  embedding,
  positions,
  type SelfAttentionOptions,
  type SelfAttentionParams,
  selfAttention,
} from "./nn/attention.ts";
export {
  type ConvAutoencoderOptions,
  type ConvAutoencoderParams,
  convAutoencoder,
} from "./nn/autoencoder.ts";
export { dropout } from "./nn/dropout.ts";
export {
  glorotUniform,
  heNormal,
  type Initializer,
  lecunNormal,
  normalOf,
  zeros,
} from "./nn/initializers.ts";
export { accuracy, l2, mse, sigmoidBinaryCrossEntropy, softmaxCrossEntropy } from "./nn/losses.ts";
export {
  type Model,
  type NoParams,
  type Params,
  type ResidualParams,
  residual,
  sequential,
} from "./nn/model.ts";
export { type CnnOptions, type CnnParams, cnn, logistic, type MlpOptions, mlp } from "./nn/models.ts";
export { momentsOf, withMoments } from "./nn/moments.ts";
export { batchNorm, groupNorm, layerNorm, type NormOptions, type NormParams } from "./nn/normalize.ts";
export { type ResnetOptions, type ResnetParams, resnet20 } from "./nn/resnet.ts";
export {
  type CharTransformerOptions,
  type CharTransformerParams,
  charTransformer,
  type TransformerBlockOptions,
  type TransformerBlockParams,
  transformerBlock,
} from "./nn/transformer.ts";
export { avgPool, globalAvgPool, maxPool, upsample } from "./nn/windows.ts";
export { type AffineCall, type Moments, type Observer, observing } from "./observe.ts";
