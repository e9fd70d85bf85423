# miq_add_room(NAME LINKS target...): one room of the suite as the library miq::NAME.
#
# Headers are included as "miq/ROOM/name.h". The build tree holds one include folder per room with a
# link miq/ROOM to the sources, so a target finds exactly the headers of the rooms that it links:
# an include against the flow does not compile.
#
# Sources are found by pattern: adding a format, method or metric adds a file pair and one row in a
# table, and touches no build file.
function(miq_add_room name)
  cmake_parse_arguments(ROOM "" "" "LINKS;PRIVATE_LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(view ${CMAKE_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${view}/miq)
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${view}/miq/${name} SYMBOLIC)
  if(sources)
    add_library(miq_${name} STATIC ${sources})
    set(scope PUBLIC)
    target_compile_options(miq_${name} PRIVATE ${MIQ_WARNINGS})
    if(ROOM_PRIVATE_LINKS)
      target_link_libraries(miq_${name} PRIVATE ${ROOM_PRIVATE_LINKS})
    endif()
  else()
    add_library(miq_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(miq::${name} ALIAS miq_${name})
  set_target_properties(miq_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(miq_${name} ${scope} $<BUILD_INTERFACE:${view}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(miq_${name} ${scope} ${ROOM_LINKS})
  set_property(GLOBAL APPEND PROPERTY MIQ_ROOMS ${name})
endfunction()

# -Wrestrict of GCC 12 warns about "literal" + std::string (GCC bug 105651).
set(MIQ_WARNINGS -Wall -Wextra -Wshadow -Wnon-virtual-dtor $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
if(MIQ_WERROR)
  list(APPEND MIQ_WARNINGS -Werror)
endif()
if(MIQ_SANITIZE)
  add_compile_options(-fsanitize=${MIQ_SANITIZE} -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=${MIQ_SANITIZE})
  if(MIQ_SANITIZE MATCHES thread)
    # The choice between clones is made by code that runs before the thread sanitizer is set up, and
    # crashes in it: build the default clone alone.
    add_compile_options("-Dtarget_clones(...)=")
  endif()
endif()
# a + b * c is rounded twice everywhere unless a kernel asks for a fused operation: the same bytes
# come out whatever instruction set the compiler was allowed to use.
add_compile_options(-ffp-contract=off)
