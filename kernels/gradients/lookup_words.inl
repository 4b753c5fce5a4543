// What the look-ups of lookup.inl have in common, whatever the instruction set. Included where GROUP, GROUPS and CHUNK
// are defined.
constexpr isize WORD = GROUP * GROUPS, INDEX = 64;      // values of a word of the index; its bytes for H channels
// Bytes that are used again and again; most caches of the second level, and of the first, have more.
constexpr isize CACHED = 256 << 10, NEAR = 24 << 10;
constexpr isize LINE = 64;              // bytes of a line of the caches
constexpr isize PIXELS = 8;             // of dy that are prepared together

struct Head {                                           // of a row of tables
    float step;
    int32_t start;                                      // of its sums, in steps
};
