// @ts-check
/**
 * Where a street camera looks: a point runs along the panorama, and what it shares with each place
 * of the view from above turns around the camera. Angles are clockwise; the ray points to where the
 * point should lie if the heading is right.
 */

import {
  decodeFloats,
  find,
  inline,
  largest,
  makeColours,
  makePainter,
  svg,
  write,
} from "./viewer.js";

/** @typedef {import("./viewer.js").XY} XY */
/** @typedef {import("./viewer.js").XYXY} XYXY */
/** @typedef {{ name: string, src: string, size_wh: XY, view_xyxy: XYXY, grid_hw: XY }} ShownData */
/**
 * `maps`: float32 (columns, h, w), of a point at the middle of each column of the panorama's view;
 * `density` of the heading in equal steps from 0°, the top of the view from above.
 * @typedef {{ format: 1, street: ShownData, above: ShownData, columns: number, maps: string, y: number, camera_xy: XY, heading: number, density: number[], words: string, model: string }} HeadingData
 */

const SECONDS = 14;
/** Of a turn. */

const PAGE = `
  <h1></h1>
  <p class="wh-lead"></p>
  <figure class="wh-street">
    <figcaption></figcaption>
    <div class="wh-frame"><img alt="" draggable="false"></div>
  </figure>
  <div class="wh-controls">
    <button type="button" class="wh-play"></button>
    <input type="range" min="0" max="3599" step="1" aria-label="Where along the panorama">
  </div>
  <div class="wh-below">
    <figure class="wh-above">
      <figcaption></figcaption>
      <div class="wh-frame"><img alt="" draggable="false"><canvas role="img"></canvas></div>
    </figure>
    <div class="wh-said">
      <p class="wh-now"></p>
      <p><small>Warm: what the point carries together with a place from above, for the match; blue:
      against it. Line from the camera: where the point should lie if the heading is right. Ring: how
      likely each heading is; its arrow is the heading, where the panorama’s middle looks.</small></p>
      <p><small class="wh-model"></small></p>
    </div>
  </div>`;

/** A point at a bearing, so far from another. @param {XY} from @param {number} bearing @param {number} far @returns {XY} */
function towards([x, y], bearing, far) {
  const a = (bearing * Math.PI) / 180;
  return [x + far * Math.sin(a), y - far * Math.cos(a)];
}

/** The distribution of the heading as a ring. @param {XY} camera @param {number} radius @param {number} width @param {number[]} density */
function ring(camera, radius, width, density) {
  const most = Math.max(...density) || 1;
  const steps = density.length;
  const outer = density.map((value, i) =>
    towards(camera, (i * 360) / steps, radius + (width * value) / most).map((v) => v.toFixed(1)),
  );
  const inner = density.map((_, i) =>
    towards(camera, (i * 360) / steps, radius).map((v) => v.toFixed(1)),
  );
  return `M${outer.join("L")}Z M${inner.reverse().join("L")}Z`;
}

/** @param {HTMLElement} root @param {HeadingData} data */
export function startHeading(root, data) {
  root.className = "wa-root wh-root";
  root.innerHTML = PAGE;
  const [width, height] = data.street.size_wh;
  const [across, down] = data.above.size_wh;
  write(find(root, "h1", HTMLElement), `Where ${data.street.name} looks`);
  write(find(root, ".wh-lead", HTMLElement), data.words);
  write(find(root, ".wh-model", HTMLElement), data.model);
  for (const side of /** @type {const} */ (["street", "above"])) {
    const figure = find(root, `.wh-${side}`, HTMLElement);
    const image = find(figure, "img", HTMLImageElement);
    image.src = data[side].src;
    image.alt = data[side].name;
    const caption = find(figure, "figcaption", HTMLElement);
    caption.append(
      inline("b", "", side === "street" ? "street" : "above"),
      ` ${data[side].name}`,
    );
  }

  // Strokes are in pixels of the screen, however small the photograph is.
  const line = { stroke: "#fff", "stroke-width": 2, "vector-effect": "non-scaling-stroke" };
  const edge = { ...line, stroke: "#000", "stroke-width": 4 };
  const street = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const posts = [edge, line].map((look) => svg("line", { y1: 0, y2: height, ...look }));
  const point = svg("ellipse", { cy: data.y, fill: "#ffd60a", ...edge, "stroke-width": 1 });
  point.setAttribute("rx", String(height / 22));
  point.setAttribute("ry", String(height / 22));
  street.append(...posts, point);
  find(root, ".wh-street .wh-frame", HTMLElement).append(street);

  const above = svg("svg", { viewBox: `0 0 ${across} ${down}`, "aria-hidden": "true" });
  const reach = Math.min(across, down);
  const rays = [edge, line].map((look) => svg("line", { ...look }));
  const path = ring(data.camera_xy, 0.34 * reach, 0.12 * reach, data.density);
  const thin = { stroke: "#000", "stroke-width": 1, "vector-effect": "non-scaling-stroke" };
  const shape = { fill: "#ffd60a", "fill-opacity": 0.75, "fill-rule": "evenodd" };
  above.append(svg("path", { d: path, ...thin, ...shape }));
  const tip = towards(data.camera_xy, data.heading, 0.46 * reach);
  const arrow = [tip, ...[-6, 6].map((by) => towards(data.camera_xy, data.heading + by, 0.4 * reach))];
  above.append(svg("polygon", { points: arrow.join(" "), fill: "#fff", ...edge, "stroke-width": 2 }));
  above.append(...rays);
  const [cx, cy] = data.camera_xy;
  above.append(svg("circle", { cx, cy, r: reach / 60, fill: "#ffd60a", ...thin }));
  const canvas = find(root, "canvas", HTMLCanvasElement);
  const [x0, y0, x1, y1] = data.above.view_xyxy;
  Object.assign(canvas.style, {
    inset: "auto",
    left: `${(100 * x0) / across}%`,
    top: `${(100 * y0) / down}%`,
    width: `${(100 * (x1 - x0)) / across}%`,
    height: `${(100 * (y1 - y0)) / down}%`,
  });
  canvas.after(above);

  const [h, w] = data.above.grid_hw;
  const maps = decodeFloats(data.maps);
  const faint = 0.3 * largest(maps) || 1; // a point of nothing stays pale
  const colours = makeColours("both", 0.9);
  const paint = makePainter(canvas, h, w);
  const values = new Float32Array(h * w);
  const slider = find(root, "input", HTMLInputElement);
  const button = find(root, ".wh-play", HTMLButtonElement);
  const now = find(root, ".wh-now", HTMLElement);

  /** Draws a point. @param {number} azimuth from −180, the left edge, to below 180 */
  function draw(azimuth) {
    const x = ((azimuth + 180) / 360) * width;
    const [left, , right] = data.street.view_xyxy;
    // The panorama goes on at its other edge, and so do the maps between the last and the first.
    const at = ((x - left) / (right - left)) * data.columns - 0.5 + data.columns;
    const low = Math.floor(at) % data.columns;
    const next = (low + 1) % data.columns;
    const f = at - Math.floor(at);
    for (let i = 0; i < values.length; i++) {
      values[i] = maps[low * values.length + i] * (1 - f) + maps[next * values.length + i] * f;
    }
    paint(values, Math.max(faint, largest(values)), colours);
    for (const post of posts) {
      post.setAttribute("x1", String(x));
      post.setAttribute("x2", String(x));
    }
    point.setAttribute("cx", String(x));
    const [u, v] = towards(data.camera_xy, data.heading + azimuth, 2 * reach);
    for (const ray of rays) {
      for (const [name, value] of Object.entries({ x1: cx, y1: cy, x2: u, y2: v })) {
        ray.setAttribute(name, String(value));
      }
    }
    const side = azimuth < 0 ? "left" : "right";
    write(now, `The point lies ${Math.abs(azimuth).toFixed(0)}° to the ${side} of the middle.`);
    canvas.setAttribute("aria-label", `Map of a point ${azimuth.toFixed(0)}° from the middle`);
  }

  let playing = false;
  let last = 0;
  let degrees = 0;
  /** @param {number} time */
  function step(time) {
    if (!playing) return;
    degrees = (degrees + ((time - last) / 1000 / SECONDS) * 360) % 360;
    last = time;
    slider.value = String(Math.round(degrees * 10) % 3600);
    draw(degrees - 180);
    requestAnimationFrame(step);
  }
  /** @param {boolean} on */
  function play(on) {
    playing = on;
    write(button, on ? "Pause" : "Play");
    last = performance.now();
    if (on) requestAnimationFrame(step);
  }
  button.addEventListener("click", () => play(!playing));
  slider.addEventListener("input", () => {
    play(false);
    degrees = slider.valueAsNumber / 10;
    draw(degrees - 180);
  });
  slider.value = "1800";
  degrees = 180;
  draw(0);
  play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
}
