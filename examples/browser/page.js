/** Draws what train.ts reports: the points with the curve of the network, and the loss on a logarithmic scale. */
import { points, train } from "./train.ts";

const query = new URLSearchParams(location.search);
const STEPS = Number(query.get("steps") ?? 1000);
const [BLUE, ORANGE] = ["#2563eb", "#ea580c"];
const status = document.getElementById("status");
const device = query.get("device") === "cpu" ? "cpu" : "webgpu";

/** Lines and dots in a rectangle of the plane that fills a canvas. */
function plot(id, [left, right], [bottom, top]) {
  const canvas = document.getElementById(id);
  const pen = canvas.getContext("2d");
  const place = (x, y) => [
    ((x - left) / (right - left)) * canvas.width,
    ((top - y) / (top - bottom)) * canvas.height,
  ];
  return {
    clear: () => pen.clearRect(0, 0, canvas.width, canvas.height),
    dots(xs, ys, colour) {
      pen.fillStyle = colour;
      for (let i = 0; i < xs.length; i++) {
        const [x, y] = place(xs[i], ys[i]);
        pen.fillRect(x - 3, y - 3, 6, 6);
      }
    },
    line(xs, ys, colour) {
      pen.strokeStyle = colour;
      pen.lineWidth = 4;
      pen.beginPath();
      for (let i = 0; i < xs.length; i++) pen.lineTo(...place(xs[i], ys[i]));
      pen.stroke();
    },
  };
}

const fit = plot("fit", [-1, 1], [-1.1, 1.1]);
const curve = plot("loss", [0, STEPS], [-3, 0]);
const [steps, logarithms] = [[], []];

try {
  const start = performance.now();
  for await (const { step, loss, fit: values } of train(device, STEPS)) {
    steps.push(step);
    logarithms.push(Math.log10(loss));
    fit.clear();
    fit.dots(points.x, points.y, ORANGE);
    fit.line(points.x, values, BLUE);
    curve.clear();
    curve.line(steps, logarithms, BLUE);
    status.textContent = `${device}: step ${step}, loss ${loss.toExponential(2)}`;
    status.dataset.loss = loss;
    // A frame for the browser to show it.
    await new Promise(requestAnimationFrame);
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  status.textContent += `, ${STEPS} steps in ${seconds} s`;
  status.dataset.end = "well";
} catch (error) {
  status.textContent = error.message;
  status.dataset.end = "badly";
}
