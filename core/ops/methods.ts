/** The operations as methods of values: each forwards to the free function of the same name. */
import { installMethods } from "../value.ts";
import * as contract from "./contract.ts";
import * as indexing from "./indexing.ts";
import * as math from "./math.ts";
import * as reduce from "./reduce.ts";
import * as shape from "./shape.ts";

installMethods({
  add(y) {
    return math.add(this, y);
  },
  sub(y) {
    return math.sub(this, y);
  },
  mul(y) {
    return math.mul(this, y);
  },
  div(y) {
    return math.div(this, y);
  },
  pow(y) {
    return math.pow(this, y);
  },
  neg() {
    return math.neg(this);
  },
  exp() {
    return math.exp(this);
  },
  log() {
    return math.log(this);
  },
  sin() {
    return math.sin(this);
  },
  cos() {
    return math.cos(this);
  },
  tanh() {
    return math.tanh(this);
  },
  sqrt() {
    return math.sqrt(this);
  },
  abs() {
    return math.abs(this);
  },
  sigmoid() {
    return math.sigmoid(this);
  },
  relu() {
    return math.relu(this);
  },
  maximum(y) {
    return math.maximum(this, y);
  },
  minimum(y) {
    return math.minimum(this, y);
  },
  equal(y) {
    return math.equal(this, y);
  },
  less(y) {
    return math.less(this, y);
  },
  greater(y) {
    return math.greater(this, y);
  },
  sum(options) {
    return reduce.sum(this, options);
  },
  mean(options) {
    return reduce.mean(this, options);
  },
  max(options) {
    return reduce.max(this, options);
  },
  min(options) {
    return reduce.min(this, options);
  },
  reshape(to) {
    return shape.reshape(this, to);
  },
  transpose(perm) {
    return shape.transpose(this, perm);
  },
  broadcastTo(to) {
    return shape.broadcastTo(this, to);
  },
  matmul(y) {
    return contract.matmul(this, y);
  },
  dot(y) {
    return contract.dot(this, y);
  },
  astype(dtype) {
    return shape.cast(this, dtype);
  },
  slice(starts, limits, strides) {
    return shape.slice(this, starts, limits, strides);
  },
  take(indices, options) {
    return indexing.take(this, indices, options);
  },
  expm1() {
    return math.expm1(this);
  },
  log1p() {
    return math.log1p(this);
  },
  sign() {
    return math.sign(this);
  },
  clip(low, high) {
    return math.clip(this, low, high);
  },
  notEqual(y) {
    return math.notEqual(this, y);
  },
  lessEqual(y) {
    return math.lessEqual(this, y);
  },
  greaterEqual(y) {
    return math.greaterEqual(this, y);
  },
  prod(options) {
    return reduce.prod(this, options);
  },
  norm(options) {
    return reduce.norm(this, options);
  },
  argmax(options) {
    return reduce.argmax(this, options);
  },
  softmax(options) {
    return reduce.softmax(this, options);
  },
  expandDims(axis) {
    return shape.expandDims(this, axis);
  },
  squeeze(axis) {
    return shape.squeeze(this, axis);
  },
});
