/** What to do next, from the state of the work alone. */

const START = 10; // images drawn on, up to which the hint asks for more
const ENOUGH = 3; // images that are marked as uncertain, and corrected ones after which the hint says to train on

/** The images that have a value of this name ("uncertainty" or "changed"), the highest first. */
export function highest(images, name) {
  return images.filter((image) => image[name] !== null).sort((one, other) => other[name] - one[name]);
}

/** The number of the last round that has a network, null where none has. */
export function newestRound(rounds) {
  return rounds.findLast(({ network }) => network)?.round ?? null;
}

const isCorrected = ({ learned }) => learned === false; // since the round that is shown

/** The images that are marked as uncertain, whether they are corrected by now or not, by id. */
export function uncertain(images) {
  return highest(images, "uncertainty").slice(0, ENOUGH).map(({ id }) => id);
}

/** The most uncertain images without new strokes, by id. */
function worthCorrecting(images) {
  const left = images.filter((image) => !isCorrected(image));
  return highest(left, "uncertainty").slice(0, ENOUGH).map(({ id }) => id);
}

/** The one of these to go to: the first, or the one after the image that is shown; undefined where there is no other. */
export function toCorrect(images, shown) {
  const most = worthCorrecting(images), next = most[(most.indexOf(shown) + 1) % most.length];
  return next === shown ? undefined : next;
}

/**
 * Return what the page's line says: {text, name, key, count, action}, with a text of texts.js, the class that it speaks
 * of and its key, how many images are drawn on, and the name of what its button does.
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
    const count = images.filter((each) => each.drawn.length).length;
    if (count < Math.min(START, images.length)) return { text: "hintMore", count, action: "toNext" };
    return { text: "hintTrain", action: "toTrain" };
  }
  if (shown !== newestRound(rounds)) return { text: "hintOlder", action: "toNewest" };
  const corrected = images.filter(isCorrected).length, next = toCorrect(images, image?.id);
  if (corrected >= ENOUGH || (corrected && !next)) return { text: "hintCorrected", action: "toTrain" };
  if (corrected) return { text: "hintCorrectMore", action: "toMostNext" };
  const isUncertain = image?.place && worthCorrecting(images).includes(image.id);
  return { text: isUncertain ? "hintLookHere" : "hintLook", action: next && (isUncertain ? "toMostNext" : "toMost") };
}
