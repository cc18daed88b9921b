import { describe, expect, it } from 'vitest'
import { censor, maskUrl } from '../../../lib/config/mask.ts'

describe('a URL loses its password', () => {
  it.each([
    ['redis://:secret@host:6379/0', 'redis://:********@host:6379/0'],
    ['amqp://user:secret@host//', 'amqp://user:********@host//'],
    ['redis://:se/c@ret@host/0', 'redis://:********@host/0'],
    ['redis://:secret;1@host/0', 'redis://:********@host/0'],
    [
      'sentinel://:secret@a:1;sentinel://:secret@b:2/0',
      'sentinel://:********@a:1;sentinel://:********@b:2/0',
    ],
    ['sentinel://:secret@a:1;b:2/0', 'sentinel://:********@a:1;b:2/0'],
    ['cache+memcached://u:secret@a:1;u:secret@b:2/', 'cache+memcached://u:********@a:1;u:********@b:2/'],
    ['redis://host/0?password=secret&a=b', 'redis://host/0?password=********&a=b'],
    [
      'azureblockblob://AccountName=n;AccountKey=secret==;EndpointSuffix=x',
      'azureblockblob://AccountName=n;AccountKey=********;EndpointSuffix=x',
    ],
    ['redis://user@host', 'redis://user@host'],
    ['db+sqlite:///file.db', 'db+sqlite:///file.db'],
    ['no url', 'no url'],
  ])('%s', (url, masked) => {
    expect(maskUrl(url)).toBe(masked)
  })
})

describe('a value loses its secrets', () => {
  it.each([
    ['securityKeyPassword', 'x', '********'],
    ['s3SecretAccessKey', 'x', '********'],
    ['databaseUrl', 'x', '********'],
    ['taskDefaultQueue', 'x', 'x'],
    ['redisPassword', null, null],
    ['brokerUrl', ['redis://:x@a'], ['redis://:********@a']],
    [
      'mongodbBackendSettings',
      { host: 'h', options: { apiToken: 'x' } },
      { host: 'h', options: { apiToken: '********' } },
    ],
  ])('%s that is %j', (name, value, censored) => {
    expect(censor(name, value)).toEqual(censored)
  })
})
