# cmake --install: the commands, their manual pages, the libraries, their headers, and a package that
# find_package(miq) finds. The package repeats cmake/Dependencies.cmake, with the LibTorch that this
# build used as its default.
include(CMakePackageConfigHelpers)
get_property(rooms GLOBAL PROPERTY MIQ_ROOMS)
set(targets)
foreach(room ${rooms})
  list(APPEND targets miq_${room})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/${room}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/miq/${room} FILES_MATCHING PATTERN "*.h")
endforeach()
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/miq)
install(TARGETS ${targets} EXPORT miqTargets)
install(EXPORT miqTargets NAMESPACE miq:: DESTINATION ${package})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/miqConfig.cmake.in ${CMAKE_BINARY_DIR}/miqConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/miqConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/miqConfig.cmake ${CMAKE_BINARY_DIR}/miqConfigVersion.cmake ${CMAKE_SOURCE_DIR}/cmake/Dependencies.cmake DESTINATION ${package})
install(FILES ${CMAKE_SOURCE_DIR}/formats/spec/miq.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
