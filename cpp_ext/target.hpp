// FETALCLIP_TARGET("avx2") ... FETALCLIP_TARGET_END: compile what lies between for a set of
// instructions that the build's baseline lacks. Include standard headers before the region.
#pragma once

#define FETALCLIP_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FETALCLIP_TARGET(features) \
  FETALCLIP_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FETALCLIP_TARGET_END FETALCLIP_PRAGMA(clang attribute pop)
#else
#define FETALCLIP_TARGET(features) \
  FETALCLIP_PRAGMA(GCC push_options) FETALCLIP_PRAGMA(GCC target(features))
#define FETALCLIP_TARGET_END FETALCLIP_PRAGMA(GCC pop_options)
#endif
