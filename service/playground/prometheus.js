// Prometheus' text format, and what its histograms say.

/** Samples as {name, labels, value}. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    samples.push({ name: found[1], labels, value: Number(found[3].replace("Inf", "Infinity")) });
  }
  return samples;
}

function matching(samples, name, labels) {
  return samples.filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value));
}

/** The sum of a counter or gauge over all samples with these labels. */
export function total(samples, name, labels = {}) {
  return matching(samples, name, labels).reduce((sum, one) => sum + one.value, 0);
}

/** Sums by the value of one label. */
export function by(samples, name, labels, label) {
  const found = {};
  for (const one of matching(samples, name, labels)) found[one.labels[label]] = (found[one.labels[label]] ?? 0) + one.value;
  return found;
}

/** A histogram with the counts of each bucket by itself: {bounds, counts, sum, count}. */
export function histogram(samples, name, labels) {
  const cumulative = new Map();
  for (const one of matching(samples, `${name}_bucket`, labels)) {
    const bound = one.labels.le === "+Inf" ? Infinity : Number(one.labels.le);
    cumulative.set(bound, (cumulative.get(bound) ?? 0) + one.value);
  }
  const bounds = [...cumulative.keys()].sort((a, b) => a - b);
  const counts = bounds.map((bound, i) => cumulative.get(bound) - (i ? cumulative.get(bounds[i - 1]) : 0));
  return { bounds, counts, sum: total(samples, `${name}_sum`, labels), count: total(samples, `${name}_count`, labels) };
}

/** What was added to a histogram since an earlier look at it. */
export function since(now, before) {
  if (before.bounds.length !== now.bounds.length) return now;
  return {
    bounds: now.bounds,
    counts: now.counts.map((count, i) => count - before.counts[i]),
    sum: now.sum - before.sum,
    count: now.count - before.count,
  };
}

/** A quantile, interpolated within its bucket as Prometheus does it; NaN without observations. */
export function quantile({ bounds, counts, count }, share) {
  let left = share * count;
  for (let i = 0; i < bounds.length; i++) {
    if (counts[i] && left <= counts[i]) {
      const low = i ? bounds[i - 1] : 0;
      return bounds[i] === Infinity ? low : low + ((bounds[i] - low) * left) / counts[i];
    }
    left -= counts[i];
  }
  return NaN;
}
