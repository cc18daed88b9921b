const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
]

function pad(value: number, width = 2): string {
  return String(value).padStart(width, '0')
}

function offset(date: Date): string {
  const minutes = -date.getTimezoneOffset()
  const absolute = Math.abs(minutes)
  return `${minutes < 0 ? '-' : '+'}${pad(Math.trunc(absolute / 60))}${pad(absolute % 60)}`
}

const DIRECTIVES: Readonly<Record<string, (date: Date) => string>> = {
  a: (date) => (DAYS[date.getDay()] ?? '').slice(0, 3),
  A: (date) => DAYS[date.getDay()] ?? '',
  b: (date) => (MONTHS[date.getMonth()] ?? '').slice(0, 3),
  B: (date) => MONTHS[date.getMonth()] ?? '',
  d: (date) => pad(date.getDate()),
  f: (date) => pad(date.getMilliseconds() * 1000, 6),
  H: (date) => pad(date.getHours()),
  I: (date) => pad(date.getHours() % 12 || 12),
  m: (date) => pad(date.getMonth() + 1),
  M: (date) => pad(date.getMinutes()),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  s: (date) => String(Math.floor(date.getTime() / 1000)),
  S: (date) => pad(date.getSeconds()),
  y: (date) => pad(date.getFullYear() % 100),
  Y: (date) => String(date.getFullYear()),
  z: offset,
  Z: (date) => /\((.*)\)$/.exec(date.toString())?.[1] ?? '',
  F: (date) => strftime('%Y-%m-%d', date),
  T: (date) => strftime('%H:%M:%S', date),
  '%': () => '%',
}

/** A local time in a format of Python's `strftime`; a directive that is not known stays as it is. */
export function strftime(format: string, date: Date): string {
  return format.replace(/%(.)/gs, (whole, directive: string) => {
    const render = Object.hasOwn(DIRECTIVES, directive) ? DIRECTIVES[directive] : undefined
    return render === undefined ? whole : render(date)
  })
}

let lastSecond = Number.NaN
let lastText = ''

/** A local time as Python's logging writes it: `2026-01-31 09:05:00,123`. */
export function asctime(atMs: number): string {
  const second = Math.floor(atMs / 1000)
  if (second !== lastSecond) {
    lastSecond = second
    lastText = strftime('%Y-%m-%d %H:%M:%S', new Date(atMs))
  }
  return `${lastText},${pad(Math.floor(atMs) - second * 1000, 3)}`
}
