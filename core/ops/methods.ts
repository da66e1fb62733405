/** The operations as methods of values: each forwards to the free function of the same name. */
import { installMethods } from "../value.ts";
import * as contract from "./contract.ts";
import * as indexing from "./indexing.ts";
import * as math from "./math.ts";
import * as reduce from "./reduce.ts";
import * as shape from "./shape.ts";

installMethods({
  abs() {
    return math.abs(this);
  },
  add(y) {
    return math.add(this, y);
  },
  argmax(options) {
    return reduce.argmax(this, options);
  },
  astype(dtype) {
    return shape.cast(this, dtype);
  },
  broadcastTo(to) {
    return shape.broadcastTo(this, to);
  },
  clip(low, high) {
    return math.clip(this, low, high);
  },
  cos() {
    return math.cos(this);
  },
  div(y) {
    return math.div(this, y);
  },
  dot(y) {
    return contract.dot(this, y);
  },
  equal(y) {
    return math.equal(this, y);
  },
  exp() {
    return math.exp(this);
  },
  expandDims(axis) {
    return shape.expandDims(this, axis);
  },
  expm1() {
    return math.expm1(this);
  },
  greater(y) {
    return math.greater(this, y);
  },
  greaterEqual(y) {
    return math.greaterEqual(this, y);
  },
  less(y) {
    return math.less(this, y);
  },
  lessEqual(y) {
    return math.lessEqual(this, y);
  },
  log() {
    return math.log(this);
  },
  log1p() {
    return math.log1p(this);
  },
  matmul(y) {
    return contract.matmul(this, y);
  },
  max(options) {
    return reduce.max(this, options);
  },
  maximum(y) {
    return math.maximum(this, y);
  },
  mean(options) {
    return reduce.mean(this, options);
  },
  min(options) {
    return reduce.min(this, options);
  },
  minimum(y) {
    return math.minimum(this, y);
  },
  mul(y) {
    return math.mul(this, y);
  },
  neg() {
    return math.neg(this);
  },
  norm(options) {
    return reduce.norm(this, options);
  },
  notEqual(y) {
    return math.notEqual(this, y);
  },
  pow(y) {
    return math.pow(this, y);
  },
  prod(options) {
    return reduce.prod(this, options);
  },
  relu() {
    return math.relu(this);
  },
  reshape(to) {
    return shape.reshape(this, to);
  },
  sigmoid() {
    return math.sigmoid(this);
  },
  sign() {
    return math.sign(this);
  },
  sin() {
    return math.sin(this);
  },
  slice(starts, limits, strides) {
    return shape.slice(this, starts, limits, strides);
  },
  softmax(options) {
    return reduce.softmax(this, options);
  },
  sqrt() {
    return math.sqrt(this);
  },
  squeeze(axis) {
    return shape.squeeze(this, axis);
  },
  sub(y) {
    return math.sub(this, y);
  },
  sum(options) {
    return reduce.sum(this, options);
  },
  take(indices, options) {
    return indexing.take(this, indices, options);
  },
  tanh() {
    return math.tanh(this);
  },
  transpose(perm) {
    return shape.transpose(this, perm);
  },
});
