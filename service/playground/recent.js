// The instance that each model was last asked about, for the views that go on from there.

const asked = new Map();

export function remember(card, instance) {
  asked.set(card.name, instance);
}

/** The last instance, or the card's example. */
export function lastInstance(card) {
  return asked.get(card.name) ?? card.example.instances[0];
}
