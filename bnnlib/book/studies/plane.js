// Two gradients of the scaled sign over the plane of two weights, with sliders; see plane.py beside this file.
(() => {
  const sign = x => (x < 0 ? -1 : 1);
  const alphaOf = w => (Math.abs(w[0]) + Math.abs(w[1])) / 2;
  const scaled = w => w.map(x => alphaOf(w) * sign(x));
  const cost = (w, target) => scaled(w).reduce((sum, x, i) => sum + (x - target[i]) ** 2, 0) / 2;

  // Minus dC/dW. whole: with the part through the sign, by the clipped estimator.
  const descent = (w, kind, target, whole) => {
    const b = w.map(sign), g = scaled(w).map((x, i) => x - target[i]);
    const mean = (g[0] * b[0] + g[1] * b[1]) / 2;
    return w.map((x, i) => {
      const throughAlpha = kind === 'corrected' ? b[i] * mean : g[i] / 2;
      return -(throughAlpha + (whole && Math.abs(x) <= 1 ? alphaOf(w) * g[i] : 0));
    });
  };
  globalThis.bnnPlane = { scaled, cost, descent };

  const KINDS = { corrected: 'var(--book-binary, #2463eb)', paper: 'var(--book-source, #d9480f)' };
  const FAINT = 'var(--figure-faint, #cbd5e1)', GOLD = 'var(--figure-sixth, #a16207)', GROUND = 'var(--pst-color-background, #fff)';
  const SIZE = 300, EDGE = 1.1;
  const x = v => (SIZE * (v + EDGE)) / (2 * EDGE), y = v => SIZE - x(v);
  const at = p => `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`;
  const number = v => (Math.abs(v) < 0.005 ? 0 : v).toFixed(2).replace('-', '−');
  const pair = p => `(${p.map(number).join(', ')})`;

  const arrow = (from, along, length, colour, width) => {
    const step = along.map(v => v * length), size = Math.hypot(...step);
    if (size < 1e-3) return '';
    const end = from.map((v, i) => v + step[i]), head = Math.min(0.05 * Math.sqrt(width), 0.6 * size);
    const wing = turn => [0, 1].map(i => end[i] - (head * (step[i] + turn * (i ? -step[0] : step[1]) * 0.5)) / size);
    const base = from.map((v, i) => end[i] - (head * step[i]) / size / 1.2);
    return `<path d="M${at(from)}L${at(base)}" stroke="${colour}" stroke-width="${width}"/>` +
      `<path d="M${at(end)}L${at(wing(1))}L${at(wing(-1))}Z" fill="${colour}"/>`;
  };

  // In a quadrant the cost depends on |W1| + |W2| alone, so a contour is a straight line across it, cut at the edge.
  const contours = target => {
    let lines = '';
    for (const b of [[1, 1], [1, -1], [-1, 1], [-1, -1]]) {
      const dot = b[0] * target[0] + b[1] * target[1], square = target[0] ** 2 + target[1] ** 2;
      for (let level = 0; level < 6; level += 0.1) {
        const root = Math.sqrt(dot ** 2 - 4 * (square / 2 - level));
        for (const alpha of root > 0 ? [(dot + root) / 2, (dot - root) / 2] : []) {
          const high = Math.min(2 * alpha, EDGE), low = 2 * alpha - high;
          if (alpha > 0 && low < EDGE) lines += `M${at([b[0] * high, b[1] * low])}L${at([b[0] * low, b[1] * high])}`;
        }
      }
    }
    return `<path d="${lines}" stroke="${FAINT}" fill="none"/>`;
  };

  const panel = (kind, state, length) => {
    const colour = KINDS[kind], { w, target, whole } = state, there = scaled(w);
    let drawn = `<rect width="${SIZE}" height="${SIZE}" fill="transparent"/>` + contours(target);
    drawn += `<path d="M${at([-EDGE, 0])}L${at([EDGE, 0])}M${at([0, -EDGE])}L${at([0, EDGE])}" stroke="currentColor" stroke-width="0.7"/>`;
    for (let i = 0; i < 100; i++) {
      const p = [i % 10, Math.floor(i / 10)].map(k => -0.95 + (k * 1.9) / 9);
      drawn += arrow(p, descent(p, kind, target, whole), length, colour, 1.6);
    }
    drawn += `<path d="M${at(w)}L${at(there)}" stroke="currentColor" stroke-dasharray="2 3"/>`;
    drawn += `<rect x="${x(there[0]) - 4.5}" y="${y(there[1]) - 4.5}" width="9" height="9" fill="${GROUND}" stroke="currentColor" stroke-width="1.5"/>`;
    const star = [...Array(10).keys()].map(k => {
      const angle = (k * Math.PI) / 5, far = k % 2 ? 3.6 : 9;
      return `${x(target[0]) + far * Math.sin(angle)} ${y(target[1]) - far * Math.cos(angle)}`;
    });
    drawn += `<polygon points="${star.join(' ')}" fill="${GOLD}"/>`;
    drawn += arrow(w, descent(w, kind, target, whole), length, 'currentColor', 3.2);
    drawn += `<circle cx="${x(w[0])}" cy="${y(w[1])}" r="5" fill="currentColor"/>`;
    drawn += `<circle class="plane-grip" cx="${x(w[0])}" cy="${y(w[1])}" r="22" fill="transparent"/>`;
    for (const v of [-1, 0, 1])
      drawn += `<text x="${x(v)}" y="${SIZE + 16}" text-anchor="middle">${number(v).replace('.00', '')}</text>` +
        `<text x="-6" y="${y(v) + 4}" text-anchor="end">${number(v).replace('.00', '')}</text>`;
    return drawn + `<text x="${SIZE / 2}" y="${SIZE + 32}" text-anchor="middle">W₁</text><text x="-20" y="${SIZE / 2 - 34}" text-anchor="middle">W₂</text>`;
  };

  const said = ({ w, target, whole }) => {
    const [ours, theirs] = Object.keys(KINDS).map(kind => descent(w, kind, target, whole));
    const sizes = Math.hypot(...ours) * Math.hypot(...theirs);
    const cosine = sizes ? (ours[0] * theirs[0] + ours[1] * theirs[1]) / sizes : 1;
    const angle = Math.round((Math.acos(Math.max(-1, Math.min(1, cosine))) * 180) / Math.PI);
    const apart = ['W₁', 'W₂'].filter((_, i) => ours[i] * theirs[i] < -1e-12);
    return `α = ${number(alphaOf(w))}, W̃ = ${pair(scaled(w))}, cost ${number(cost(w, target))}. ` +
      `Minus the gradient at W: corrected ${pair(ours)}, paper ${pair(theirs)}. ` +
      `Their directions are ${angle}° apart. ` +
      (apart.length ? `They move ${apart.join(' and ')} in opposite directions.` : 'They move no weight in opposite directions.');
  };

  const STYLE = `
    .plane { font: 0.875rem/1.5 var(--book-font-ui, system-ui, sans-serif); color: var(--pst-color-text-base, var(--jp-content-font-color1, inherit)); }
    .plane-panels { display: flex; flex-wrap: wrap; gap: 0.5rem 1.5rem; }
    .plane-panels > div { flex: 1 1 16rem; max-width: 24rem; }
    .plane-panels b { display: block; text-align: center; }
    .plane svg { display: block; width: 100%; height: auto; overflow: visible; cursor: crosshair; }
    .plane svg text { font-size: 13px; fill: currentColor; }
    .plane-grip { cursor: grab; touch-action: none; }
    .plane-sliders { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: 0.25rem 1.5rem; margin-top: 0.75rem; }
    .plane-sliders label { display: flex; align-items: center; gap: 0.5rem; min-height: 2rem; }
    .plane-sliders span { flex: 0 0 5.2rem; } .plane-sliders output { flex: 0 0 2.8rem; text-align: right; font-variant-numeric: tabular-nums; }
    .plane-sliders input[type=range] { flex: 1; min-width: 0; accent-color: var(--pst-color-primary, #12606f); }
    .plane-said { margin: 0.5rem 0; text-align: left; font-variant-numeric: tabular-nums; min-height: 4.5em; }
    @media screen { figure.has-plane > svg.drawn, figure.has-plane > img { display: none !important; } }
    @media print { .plane { display: none; } }`;

  const start = root => {
    const { name, arrow: length, ...state } = JSON.parse(root.dataset.settings);
    state.whole = false;
    const named = { w0: 'W₁', w1: 'W₂', target0: 'target, W̃₁', target1: 'target, W̃₂' };
    const slider = key => `<label><span>${named[key]}</span><input type="range" min="-1" max="1" step="0.01" data-key="${key}"><output></output></label>`;
    root.innerHTML = `<style>${STYLE}</style><div class="plane-panels">` +
      Object.keys(KINDS).map(kind => `<div><b>${kind}</b><svg viewBox="-32 -4 340 342" role="img" data-kind="${kind}"></svg></div>`).join('') +
      `</div><div class="plane-sliders">${Object.keys(named).map(slider).join('')}` +
      '<label><input type="checkbox"> with the part through the sign</label></div><p class="plane-said" aria-live="polite"></p>';
    const sliders = [...root.querySelectorAll('input[type=range]')], box = root.querySelector('input[type=checkbox]');
    const place = key => [key.slice(0, -1), Number(key.slice(-1))];
    const draw = () => {
      for (const input of sliders) {
        const [what, i] = place(input.dataset.key);
        input.value = state[what][i];
        input.nextElementSibling.value = number(state[what][i]);
      }
      for (const svg of root.querySelectorAll('svg')) {
        svg.innerHTML = panel(svg.dataset.kind, state, length);
        svg.setAttribute('aria-label', `Field of minus the ${svg.dataset.kind} gradient over W₁ and W₂, with contours of the cost; W is at ${pair(state.w)}, the target at ${pair(state.target)}.`);
      }
      root.querySelector('.plane-said').textContent = said(state);
    };
    for (const input of sliders) input.addEventListener('input', () => {
      const [what, i] = place(input.dataset.key);
      state[what][i] = Number(input.value);
      draw();
    });
    box.addEventListener('input', () => { state.whole = box.checked; draw(); });
    for (const svg of root.querySelectorAll('svg')) {
      const move = event => {
        const { left, top, width } = svg.getBoundingClientRect(), unit = 340 / width;
        const inside = [(event.clientX - left) * unit - 32, SIZE - ((event.clientY - top) * unit - 4)];
        state.w = inside.map(v => Math.max(-1, Math.min(1, Math.round(((2 * EDGE * v) / SIZE - EDGE) * 100) / 100)));
        draw();
      };
      svg.addEventListener('pointerdown', event => {
        if (event.target.classList.contains('plane-grip')) svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener('pointermove', event => { if (svg.hasPointerCapture(event.pointerId)) move(event); });
      svg.addEventListener('click', move);
    }
    // On the book's page it stands in the place of the figure that does not move, above its caption.
    const still = name && document.getElementById(name);
    if (still) still.classList.add('has-plane'), still.prepend(root);
    root.hidden = false;
    draw();
  };
  document.querySelectorAll('.plane[hidden]').forEach(start);
})();
