/** What to do next, from the state of the work alone. */

const ENOUGH = 3; // images that are drawn on, or corrected, after which the hint stops asking for more

/** The images that are predicted, with those that the network is least sure of first. */
export function byUncertainty(images) {
  return images.filter((image) => image.uncertainty !== null).sort((one, other) => other.uncertainty - one.uncertainty);
}

/** The number of the last round that has a network, null where none has. */
export function newestRound(rounds) {
  return rounds.findLast(({ network }) => network)?.round ?? null;
}

/** The three most uncertain images, which are worth correcting. */
export function uncertain(images) {
  return new Set(byUncertainty(images).slice(0, 3).map((image) => image.id));
}

const isCorrected = (image) => image?.learned === false; // since the round that is shown

/** The next image to correct: the most uncertain one without new strokes, or where that is `id`, the one after it. */
export function toCorrect(images, id) {
  const order = byUncertainty(images.filter((image) => !isCorrected(image)));
  const at = order.slice(0, ENOUGH - 1).findIndex((image) => image.id === id);
  return order[at + 1] ?? order[0];
}

/**
 * Return what the page's line says: {text, name, key, action}, with a text of texts.js, the class that it speaks of and
 * its key, and the name of what its button does.
 * @param image the image that is shown, or null; label: the class that is chosen.
 */
export function nextStep({ images, classes, training, rounds, shown }, image, label) {
  if (!images.length) return { text: "hintAddImages" };
  if (classes.length < 2) return { text: "hintAddClass" };
  if (training?.error) return { text: "hintError" };
  if (training?.running) {
    return { text: images.some(({ predicted }) => predicted === training.round) ? "hintFirstMasks" : "hintTraining" };
  }
  const drawn = new Set(images.flatMap((each) => each.drawn));
  if (shown === null) {
    if (drawn.size && !drawn.has(0)) return { text: "hintBackground", key: 0 };
    const missing = [label, ...classes.keys()].find((each) => each && !drawn.has(each));
    if (missing !== undefined) {
      const which = { name: classes[missing].name, key: missing };
      if (drawn.size) return { text: "hintClass", action: "toNext", ...which };
      return { text: classes.length === 2 ? "hintOne" : "hintFirst", ...which };
    }
    const many = images.filter((each) => each.drawn.length).length >= Math.min(ENOUGH, images.length);
    return many ? { text: "hintTrain", action: "toTrain" } : { text: "hintMore", action: "toNext" };
  }
  if (shown !== newestRound(rounds)) return { text: "hintOlder", action: "toNewest" };
  const corrected = images.filter(isCorrected).length;
  if (corrected >= ENOUGH || (corrected && !toCorrect(images))) return { text: "hintCorrected", action: "toTrain" };
  if (corrected && isCorrected(image)) return { text: "hintCorrectMore", action: "toMostNext" };
  if (image && uncertain(images).has(image.id) && image.place) return { text: "hintLookHere", action: "toMostNext" };
  return { text: "hintLook", action: "toMost" };
}
