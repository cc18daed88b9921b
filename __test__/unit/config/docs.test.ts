import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { differingDefaults } from '../../../lib/config/differing-defaults.ts'
import { definitions, isOwnSetting, settingNames } from '../../../lib/config/settings.ts'
import type { SettingName } from '../../../lib/config/settings.ts'

const read = (name: string) => readFileSync(new URL(`../../../docs/${name}`, import.meta.url), 'utf8')
const plain = (value: unknown) => (typeof value === 'string' ? `\`${value}\`` : String(value))

describe('the documentation of the settings', () => {
  it.each(settingNames.filter(isOwnSetting))('has %s with its default', (name) => {
    expect(read('settings.md')).toContain(`| \`${name}\` | ${plain(definitions[name].default)} |`)
  })

  it.each(Object.entries(differingDefaults))('says how %s differs from Celery', (name, { value }) => {
    const celery = definitions[name as SettingName].default
    expect(read('differences.md')).toContain(`| \`${name}\` | ${plain(value)} | ${plain(celery)} |`)
  })

  it('names only settings that there are', () => {
    const prefixes =
      /^(accept|beat|broker|control|database|event|lease|max|publish|redis|result|task|worker)[A-Z]/
    const names = [...`${read('settings.md')}${read('differences.md')}`.matchAll(/`([a-z]\w+)(?=`|:)/g)].map(
      ([, name]) => name as SettingName,
    )
    const settings = names.filter((name) => prefixes.test(name))
    expect(settings.length).toBeGreaterThan(20)
    expect(settings.filter((name) => definitions[name] === undefined)).toEqual([])
  })
})
