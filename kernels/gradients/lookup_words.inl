// What the look-ups of lookup.inl have in common, whatever the instruction set. Included where GROUP, GROUPS and CHUNK
// are defined.
constexpr isize WORD = GROUP * GROUPS, INDEX = 64;      // values of a word of the index; its bytes for H channels
constexpr isize CACHED = 256 << 10;    // bytes that are used again and again; most second-level caches have more

struct Head {                                           // of a row of tables
    float step;
    int32_t start;                                      // of its sums, in steps
};
