//! How a result is stored on Redis: one rule for the result store and for the broker that settles in its place.
//!
//! Source of the rule: `celery.backends.redis.RedisBackend._set`,
//! `celery.backends.base.BaseKeyValueStoreBackend._store_result`.

/// A Lua function `store_result(key, document, lifetime)`, to be put before a script.
///
/// It sets the key and publishes the document on the channel of the same name, unless a SUCCESS is there already.
/// `lifetime` is in milliseconds, as text; `'0'` is for ever. It returns 1 when it stored and 0 when it did not, and
/// raises what Redis refuses.
///
/// The documents of Celery begin with their status, which is looked at without reading the rest. Others are parsed;
/// what is no JSON counts as no success.
pub const STORE_RESULT: &str = r#"
local function store_result(key, document, lifetime)
  local is_new
  -- Most keys are new, so that nothing has to be looked at.
  if lifetime == '0' then
    is_new = redis.call('SET', key, document, 'NX')
  else
    is_new = redis.call('SET', key, document, 'PX', lifetime, 'NX')
  end
  if not is_new then
    local start = redis.call('GETRANGE', key, 0, 19)
    if start == '{"status": "SUCCESS"' then return 0 end
    if start ~= '' and string.sub(start, 1, 12) ~= '{"status": "' then
      local parsed, old = pcall(cjson.decode, redis.call('GET', key))
      if parsed and type(old) == 'table' and old.status == 'SUCCESS' then return 0 end
    end
    if lifetime == '0' then
      redis.call('SET', key, document)
    else
      redis.call('SET', key, document, 'PX', lifetime)
    end
  end
  redis.call('PUBLISH', key, document)
  return 1
end
"#;

/// The `lifetime` of [`STORE_RESULT`] for `result_expires`: whole milliseconds, at least one; none and zero are for
/// ever, as in Celery.
pub fn lifetime_ms(expires: Option<std::time::Duration>) -> u64 {
    match expires {
        Some(expires) if !expires.is_zero() => {
            u64::try_from(expires.as_millis()).unwrap_or(u64::MAX).clamp(1, FOREVER)
        }
        _ => 0,
    }
}

/// A hundred thousand years. Redis refuses an end that its clock cannot count.
const FOREVER: u64 = 100_000 * 365 * 86_400 * 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_and_zero_are_for_ever_and_all_else_is_a_time() {
        assert_eq!(lifetime_ms(None), 0);
        assert_eq!(lifetime_ms(Some(Duration::ZERO)), 0);
        assert_eq!(lifetime_ms(Some(Duration::from_nanos(1))), 1);
        assert_eq!(lifetime_ms(Some(Duration::from_secs(86_400))), 86_400_000);
        assert_eq!(lifetime_ms(Some(Duration::MAX)), FOREVER);
    }
}
