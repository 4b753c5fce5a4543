// From strokes of a pen to an image as MNIST has them; what bnnlib/book/live/digits.py does, step by step.
(live => {
  const SIDE = 28, BOX = 20, LINE = 2.6, SOFT = 1.3, LARGEST = 200;

  // How much of the line each pixel sees, 0 to 1: by the distance of its centre from the nearest stroke.
  const ink = (strokes, width) => {
    const nearest = new Float64Array(SIDE * SIDE).fill(Infinity);
    for (const stroke of strokes)
      for (let k = 0; k < stroke.length; ++k) {
        const [ax, ay] = stroke[k], [bx, by] = stroke[Math.min(k + 1, stroke.length - 1)];
        const ux = bx - ax, uy = by - ay, length = ux * ux + uy * uy;
        for (let i = 0; i < SIDE * SIDE; ++i) {
          const x = i % SIDE + 0.5 - ax, y = Math.floor(i / SIDE) + 0.5 - ay;
          const t = length > 0 ? Math.min(1, Math.max(0, (x * ux + y * uy) / length)) : 0;
          const ex = x - t * ux, ey = y - t * uy, d = ex * ex + ey * ey;
          if (d < nearest[i]) nearest[i] = d;
        }
      }
    return nearest.map(d => Math.min(1, Math.max(0, (width / 2 - Math.sqrt(d)) / SOFT + 0.5)));
  };

  // strokes: lists of points [x, y] on a square of side 1 -> 28 x 28 pixels, 255 where the line is; null for an empty drawing.
  live.digitImage = strokes => {
    const points = strokes.flat();
    if (!points.length) return null;
    const xs = points.map(p => p[0]), ys = points.map(p => p[1]);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const scale = Math.min((BOX - LINE) / Math.max(right - left, bottom - top, 1e-9), LARGEST);
    const at = (dx, dy) => strokes.map(stroke => stroke.map(([x, y]) =>
      [(x - (left + right) / 2) * scale + SIDE / 2 + dx, (y - (top + bottom) / 2) * scale + SIDE / 2 + dy]));
    const first = ink(at(0, 0), LINE);
    let total = 0, mx = 0, my = 0;
    first.forEach((v, i) => { total += v, mx += v * (i % SIDE + 0.5), my += v * (Math.floor(i / SIDE) + 0.5); });
    return Uint8Array.from(ink(at(SIDE / 2 - mx / total, SIDE / 2 - my / total), LINE), v => Math.floor(255 * v + 0.5));
  };
})(globalThis.bnnLive ??= {});
