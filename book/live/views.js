// What the page shows of a network: answers as bars, activations as maps, times and sizes.
(live => {
  live.colours = element => {
    const style = getComputedStyle(element), get = name => style.getPropertyValue(name).trim();
    return { ink: get('--live-ink'), off: get('--live-off'), line: get('--live-line'), accent: get('--live-accent'), equal: get('--live-equal') };
  };

  // The canvas of a part, made at its first use in the place of the picture that the page came with.
  const canvasIn = element => {
    let canvas = element.querySelector('canvas');
    if (!canvas) {
      canvas = document.createElement('canvas');
      const still = element.querySelector('svg');
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', still?.dataset.moving ?? still?.getAttribute('aria-label') ?? '');
      element.replaceChildren(canvas);
    }
    return canvas;
  };
  live.canvasIn = canvasIn;

  // Maps side by side, `columns` a row, a gap of one cell between: the first `shown`. values: [h][w][c], 0..1;
  // marks: [{ map (or all), y, x, h, w }].
  live.drawMaps = (element, values, [h, w, c], columns, { marks = [], on = 'ink', shown = c } = {}) => {
    const cell = Math.max(2, Math.min(10, Math.floor(1200 / (columns * (w + 1)))));
    const canvas = canvasIn(element), rows = Math.ceil(shown / columns);
    canvas.width = (columns * (w + 1) - 1) * cell, canvas.height = (rows * (h + 1) - 1) * cell;
    const to = canvas.getContext('2d'), colours = live.colours(element);
    const left = map => map % columns * (w + 1) * cell, top = map => Math.floor(map / columns) * (h + 1) * cell;
    to.fillStyle = colours.off;
    for (let map = 0; map < shown; ++map) to.fillRect(left(map), top(map), w * cell, h * cell);
    to.fillStyle = colours[on];
    for (let map = 0; map < shown; ++map)
      for (let y = 0; y < h; ++y)
        for (let x = 0; x < w; ++x) {
          const value = values[(y * w + x) * c + map];
          if (value <= 0) continue;
          to.globalAlpha = Math.min(1, value);
          to.fillRect(left(map) + x * cell, top(map) + y * cell, cell, cell);
        }
    to.globalAlpha = 1, to.strokeStyle = colours.accent, to.lineWidth = Math.max(2, cell / 3);
    for (const mark of marks)
      for (let map = mark.map ?? 0; map <= (mark.map ?? shown - 1); ++map)
        to.strokeRect(left(map) + mark.x * cell, top(map) + mark.y * cell, mark.w * cell, mark.h * cell);
    canvas.layout = { h, w, c, columns };
  };

  // The cell of drawMaps under a pointer, or null.
  live.cellAt = (canvas, event) => {
    const { h, w, c, columns } = canvas.layout, box = canvas.getBoundingClientRect(), rows = Math.ceil(c / columns);
    const across = (event.clientX - box.left) / box.width * (columns * (w + 1) - 1);
    const down = (event.clientY - box.top) / box.height * (rows * (h + 1) - 1);
    const column = Math.floor(across / (w + 1)), row = Math.floor(down / (h + 1)), x = Math.floor(across % (w + 1)), y = Math.floor(down % (h + 1));
    const map = row * columns + column;
    return column >= 0 && column < columns && map < c && row >= 0 && x >= 0 && x < w && y >= 0 && y < h ? { map, y, x } : null;
  };

  live.drawBars = (element, shares, best) => {
    element.querySelectorAll('.live-bar').forEach((bar, i) => {
      bar.classList.toggle('live-best', i === best);
      bar.querySelector('.live-fill').style.width = `${100 * shares[i]}%`;
      bar.querySelector('.live-share').textContent = live.percent(shares[i]);
    });
  };

  live.percent = share => share >= 0.9995 ? '100 %' : share < 0.0005 ? '0 %' : `${(100 * share).toFixed(1)} %`;
  live.duration = ms => ms < 0.1 ? `${(1000 * ms).toFixed(0)} µs` : ms < 10 ? `${ms.toFixed(2)} ms` : `${ms.toFixed(0)} ms`;
})(globalThis.bnnLive ??= {});
