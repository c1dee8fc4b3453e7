'use strict';
// pomelo wants a handler in every server; nobody connects to these.
module.exports = () => ({ entry: (msg, session, next) => next(null, {}) });
