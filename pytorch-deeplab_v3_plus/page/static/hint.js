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

const isCorrected = ({ learned }) => learned === false; // since the round that is shown

/** The three most uncertain images without new strokes, by id: they are worth correcting. */
export function uncertain(images) {
  return byUncertainty(images.filter((image) => !isCorrected(image))).slice(0, ENOUGH).map(({ id }) => id);
}

/** The one of these to go to: the first, or the one after the image that is shown; undefined where there is no other. */
export function toCorrect(images, shown) {
  const most = uncertain(images), next = most[(most.indexOf(shown) + 1) % most.length];
  return next === shown ? undefined : next;
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
  const corrected = images.filter(isCorrected).length, next = toCorrect(images, image?.id);
  if (corrected >= ENOUGH || (corrected && !next)) return { text: "hintCorrected", action: "toTrain" };
  if (corrected) return { text: "hintCorrectMore", action: "toMostNext" };
  const isUncertain = image?.place && uncertain(images).includes(image.id);
  return { text: isUncertain ? "hintLookHere" : "hintLook", action: next && (isUncertain ? "toMostNext" : "toMost") };
}
