/** What to do next, from the state of the work alone. */

const ENOUGH = 3; // images with strokes after which the hint stops asking for more before the first round

/** The images that are predicted, with those that the network is least sure of first. */
export function byUncertainty(images) {
  return images.filter((image) => image.uncertainty !== null).sort((one, other) => other.uncertainty - one.uncertainty);
}

/** The three most uncertain images, which are worth correcting. */
export function uncertain(images) {
  return new Set(byUncertainty(images).slice(0, 3).map((image) => image.id));
}

/**
 * Return what the page's line says: {text, name, key, action}, with a text of texts.js, the class that it speaks of and
 * its key, and the name of what its button does.
 * @param image the image that is shown, or null.
 */
export function nextStep({ images, classes, training, rounds: all }, image) {
  const rounds = all.filter(({ finished }) => finished);
  if (!images.length) return { text: "hintAddImages" };
  if (classes.length < 2) return { text: "hintAddClass" };
  if (training?.error) return { text: "hintError" };
  if (training?.running) return { text: "hintTraining" };
  const drawn = new Set(images.flatMap((each) => each.drawn));
  const missing = [...classes.keys()].slice(1).find((label) => !drawn.has(label));
  if (!rounds.length) {
    if (missing !== undefined) {
      const which = { name: classes[missing].name, key: missing };
      if (drawn.size) return { text: "hintClass", action: "toNext", ...which };
      return { text: classes.length === 2 ? "hintOne" : "hintFirst", ...which };
    }
    if (!drawn.has(0)) return { text: "hintBackground", key: 0 };
    const many = images.filter((each) => each.drawn.length).length >= Math.min(ENOUGH, images.length);
    return many ? { text: "hintTrain", action: "toTrain" } : { text: "hintMore", action: "toNext" };
  }
  const strokes = images.reduce((sum, each) => sum + each.strokes, 0);
  if (strokes !== rounds.at(-1).strokes) return { text: "hintCorrected", action: "toTrain" };
  if (image && uncertain(images).has(image.id) && image.place) return { text: "hintLookHere", action: "toMostNext" };
  return { text: "hintLook", action: "toMost" };
}
