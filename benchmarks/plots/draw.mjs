// Draws plots as SVG: an array of orders in JSON on the standard input, see ../report/plots.ts. Copied to where echarts is
// installed.

import { readFileSync, writeFileSync } from 'node:fs'
import * as echarts from 'echarts'

const WIDTH = 860
const ROW = 26
const ABOVE = 72
const HEAD = 34
const BELOW = 34
const LABELS = 330
const OURS = '#2f6f4f'
const OTHERS = '#9aa5b1'
const INK = '#333'

function number(value) {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

/** A line from the least to the most, with ends. */
function whisker(_parameters, api) {
  const row = api.value(0)
  const [left, y] = api.coord([api.value(1), row])
  const [right] = api.coord([api.value(2), row])
  const line = (x1, y1, x2, y2) => ({ type: 'line', shape: { x1, y1, x2, y2 }, style: { stroke: INK } })
  return {
    type: 'group',
    children: [line(left, y, right, y), line(left, y - 4, left, y + 4), line(right, y - 4, right, y + 4)],
  }
}

function draw({ path, title, logarithmic, groups }) {
  const heights = groups.map(({ bars }) => bars.length * ROW)
  const tops = heights.map((_, index) =>
    heights.slice(0, index).reduce((sum, height) => sum + height + HEAD + BELOW, ABOVE + HEAD - 24),
  )
  const height = (tops.at(-1) ?? 0) + (heights.at(-1) ?? 0) + BELOW
  const all = groups.flatMap(({ bars }) => bars.map(({ rates }) => rates))
  // The same axis for all groups, so that bars can be compared, and room for the figures beside them.
  const most = Math.max(...all.map(({ max }) => max))
  const least = Math.min(...all.map(({ min }) => min))
  const range = logarithmic
    ? { type: 'log', min: 10 ** Math.floor(Math.log10(least)), max: most * 6 }
    : { type: 'value', min: 0, max: most * 1.25 }
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height })
  chart.setOption({
    animation: false,
    backgroundColor: '#fff',
    title: [
      { text: title, left: 12, top: 8, textStyle: { fontSize: 16, color: INK } },
      {
        text: `median of the rounds, line from least to most${logarithmic ? '; logarithmic axis' : ''}`,
        left: 12,
        top: 30,
        textStyle: { fontSize: 11, fontWeight: 'normal', color: '#666' },
      },
      ...groups.map((group, index) => ({
        text: group.title,
        left: 12,
        top: tops[index] - 24,
        textStyle: { fontSize: 12, color: INK },
      })),
    ],
    grid: groups.map((_, index) => ({
      left: LABELS,
      right: 24,
      top: tops[index],
      height: heights[index],
    })),
    xAxis: groups.map((_, index) => ({
      ...range,
      gridIndex: index,
      axisLabel: { formatter: (value) => value.toLocaleString('en'), showMaxLabel: false, color: '#666' },
      splitLine: { lineStyle: { color: '#eee' } },
    })),
    yAxis: groups.map(({ bars }, index) => ({
      type: 'category',
      gridIndex: index,
      inverse: true,
      data: bars.map(({ label }) => label),
      axisTick: { show: false },
      axisLabel: { color: INK, width: LABELS - 20, overflow: 'truncate' },
    })),
    series: groups.flatMap(({ bars }, index) => [
      {
        type: 'bar',
        xAxisIndex: index,
        yAxisIndex: index,
        barWidth: 14,
        data: bars.map(({ rates, ours }) => ({
          value: rates.median,
          itemStyle: { color: ours ? OURS : OTHERS },
        })),
      },
      {
        type: 'custom',
        xAxisIndex: index,
        yAxisIndex: index,
        renderItem: whisker,
        encode: { x: [1, 2], y: 0 },
        data: bars.map(({ rates }, row) => [row, rates.min, rates.max]),
        z: 3,
      },
      {
        // The figures, right of the lines.
        type: 'scatter',
        xAxisIndex: index,
        yAxisIndex: index,
        symbolSize: 1,
        itemStyle: { color: 'transparent' },
        label: {
          show: true,
          position: 'right',
          distance: 6,
          color: INK,
          fontSize: 11,
          formatter: ({ dataIndex }) => number(bars[dataIndex].rates.median),
        },
        data: bars.map(({ rates }, row) => [rates.max, row]),
      },
    ]),
  })
  writeFileSync(path, `${chart.renderToSVGString()}\n`)
  chart.dispose()
}

for (const order of JSON.parse(readFileSync(0, 'utf8'))) draw(order)
