// Fill both plots with the chosen head of the chosen text. `maps` is [heads, arms, pairs]: a weight's root in 255 steps,
// and for every arm but the first the difference to the arm before it, modulo 256.
const {problem, tokens, maps} = texts[Number(text.value)]
const pairs = tokens.length * (tokens.length + 1) / 2
const start = heads.indexOf(`${layer.value}-${head.value}`) * arm.options.length * pairs
const stored = (name) => {
  const roots = maps.slice(start, start + pairs)
  for (let before = 1; before <= arm.options.indexOf(name); before++)
    for (let pair = 0; pair < pairs; pair++) roots[pair] += maps[start + before * pairs + pair]
  return roots
}
const [here, there] = [stored(arm.value), stored(against.value)]
const columns = {attends: [], attended: [], shade: [], weight: [], difference: []}
let [first, moved, most] = [0, 0, 0] // weight on the first token, sum of differences, place of the largest one
for (let query = 0, pair = 0; query < tokens.length; query++) {
  for (let key = 0; key <= query; key++, pair++) {
    const shade = here[pair] / 255
    const difference = shade ** 2 - (there[pair] / 255) ** 2
    columns.attends.push(tokens[query])
    columns.attended.push(tokens[key])
    columns.shade.push(shade)
    columns.weight.push(shade ** 2)
    columns.difference.push(difference)
    first += key === 0 ? shade ** 2 : 0
    moved += Math.abs(difference)
    most = Math.abs(difference) > Math.abs(columns.difference[most]) ? pair : most
  }
}
const largest = columns.difference[most]
across.factors = tokens
down.factors = [...tokens].reverse()
scale.high = Math.abs(largest) || 1
scale.low = -scale.high
source.data = columns
const where = `at “${columns.attends[most]}” looking at “${columns.attended[most]}”`
document.getElementById("summary").textContent =
  `${arm.value}, layer ${layer.value}, head ${head.value}, ${problem}: ` +
  `${(100 * first / tokens.length).toFixed(0)} % of the attention goes to the first token. ` + (arm.value === against.value
    ? "It is compared with itself."
    : `Compared with ${against.value}, a weight differs by ${(moved / pairs).toFixed(4)} on average; ` +
      `the largest difference is ${largest.toFixed(2)}, ${where}.`)
