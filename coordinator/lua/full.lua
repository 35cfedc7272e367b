-- Put last before an operation that works in a Redis that is full as well: that refuses every command that may need
-- memory, unless the script has written before, if only what needs none. Then nothing would ever be recorded, end or
-- come back, and so nothing would make room.
call('HDEL', P .. 'meta', '')
